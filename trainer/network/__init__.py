"""The U-Net and its layers."""
