"""Latency tables as Once-for-All and ProxylessNAS publish theirs, with an entry of each type; written by hand, the numbers are made up."""

OFA = """\
# w1.2, 224 x 224
Conv-input:224x224x3-output:112x112x24:
  count: 500
  mean: 0.9876543210987654
  std: 0.0213
expanded_conv-input:112x112x24-output:112x112x24-expand:24-kernel:3-stride:1-idskip:1-se:0-hs:0:
  count: 500
  mean: 1.25
  std: 0.03125
expanded_conv-input:28x28x48-output:28x28x48-expand:144-kernel:5-stride:1-idskip:1-se:1-hs:0: {count: 38, mean: 0.75, std: 1.0e-05}
expanded_conv-input:28x28x48-output:14x14x96-expand:288-kernel:7-stride:2-idskip:0-se:0-hs:1: {count: 164, mean: 0.8125,
  std: 0.02}
Conv_1-input:7x7x192-output:7x7x1152:
  count: 500
  mean: 0.5
  std: 0.0
AvgPool2D-input:7x7x1152-output:1x1x1152:
  count: 500
  mean: 0.0625
  std: 0.004
Conv_2-input:1x1x1152-output:1x1x1536:
  count: 500
  mean: 0.25
  std: 0.01
Logits-input:1x1x1536-output:1000:
  count: 500
  mean: 0.21875
  std: 0.011
"""

PROXYLESSNAS = """\
Conv-input:224x224x3-output:112x112x32:
  count: 34
  mean: 1.5
  var: 0.0225
expanded_conv-input:112x112x32-output:112x112x16-expand:1-kernel:3-stride:1-idskip:0:
  count: 34
  mean: 1.75
  var: 0.0004
expanded_conv-input:56x56x24-output:56x56x24-expand:3-kernel:5-stride:1-idskip:1:
  count: 12
  mean: 0.9
  var: 0.001234
expanded_conv-input:56x56x24-output:56x56x24-expand:6-kernel:7-stride:1-idskip:0:
  count: 12
  mean: 1.9
  var: 0.0
Conv_1-input:7x7x320-output:7x7x1280:
  count: 34
  mean: 0.7
  var: 0.01
Logits-input:7x7x1280-output:1000:
  count: 34
  mean: 0.3
  var: 0.002
"""

#: By name of the dialect.
BY_DIALECT = {"ofa": OFA, "proxylessnas": PROXYLESSNAS}
