"""latentdiff: latent text-to-image diffusion, small, fast and exact.

Nothing heavy is imported here: `import latentdiff` loads no torch.
The pipeline is `latentdiff.pipelines.TextToImagePipeline`.
"""

__version__ = "0.1.0"
