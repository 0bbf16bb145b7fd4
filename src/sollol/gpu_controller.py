"""Models that stay loaded on GPUs: ``from sollol.gpu_controller import SOLLOLGPUController, integrate_with_router``."""

from sollol.pool.gpu import Kept, SOLLOLGPUController, integrate_with_router

__all__ = ["Kept", "SOLLOLGPUController", "integrate_with_router"]
