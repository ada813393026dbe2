"""The machine: device and precision, load, ranks and collectives, DDP and FSDP, torchrun."""
