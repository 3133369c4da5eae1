"""Times ONNX models with TensorRT on an NVIDIA GPU, or its DLA. Needs tensorrt and numpy; its contract: agent_contract.py."""

from agent_contract import main
from tensorrt_engine import TensorRt

if __name__ == "__main__":
    main(TensorRt("tensorrt"))
