"""What only GPUs can show; `nox -s gpu_tests` runs it, and too few GPUs fail it."""
