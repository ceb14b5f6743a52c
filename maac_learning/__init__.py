"""Model-Augmented Actor-Critic (Clavera, Fu, Abbeel, ICLR 2020): learning in MuJoCo with PyTorch, export to ONNX."""
