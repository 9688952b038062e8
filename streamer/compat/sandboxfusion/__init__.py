"""SandboxFusion, the sandbox of code-trained language models: ``POST /run_code``."""
