"""What a training run is made of: optimizers, schedule, evaluation, folder, log, plan."""
