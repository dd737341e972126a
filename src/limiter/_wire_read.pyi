from typing import final

@final
class Decoder:
    def __new__(cls) -> Decoder: ...
