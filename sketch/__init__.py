"""HotSketch and HotSet: which features of a stream matter now, in a fixed amount of memory."""
