"""What may surround a round: faults, attacks, clipping, a moving average, a set-up."""
