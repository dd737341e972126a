"""Guards a send loop: nobody is written to beyond the limits, nor counted twice after a crash."""

import limiter

with limiter.Client() as client:
    for person in ("person-7", "person-300"):
        decision = client.commit("network", contact=person, request_id=f"news-{person}")
        if decision.allowed:
            print(f"{person}: send now")
        elif decision.retry_time:
            print(f"{person}: {decision.reason}, not before {decision.retry_time}")
