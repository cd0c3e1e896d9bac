"""The parts of `ssd_mobilenet_v2.py`: data, anchors, network, measuring, picture."""
