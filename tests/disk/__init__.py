"""What the store makes of disks that lose power, fail and fill up."""
