"""The demo: all of hotstream as separate processes on one machine, watched, counted and checked."""
