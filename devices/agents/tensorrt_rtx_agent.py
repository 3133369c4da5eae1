"""Times ONNX models with TensorRT for RTX on an NVIDIA GPU. Needs tensorrt_rtx and numpy; its contract: agent_contract.py."""

from agent_contract import main
from tensorrt_engine import TensorRt

if __name__ == "__main__":
    main(TensorRt("tensorrt_rtx"))
