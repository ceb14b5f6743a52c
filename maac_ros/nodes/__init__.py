"""The ROS 2 nodes: they move messages and time; what they decide with is in the modules above, free of ROS."""
