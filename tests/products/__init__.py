"""What the five products do, each thing by the call or the policy line that the README names."""
