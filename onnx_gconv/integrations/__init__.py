"""onnx_gconv in other people's pipelines: after an export, in a workflow, after training.

Each module works with one other package, and imports that package only when it is needed, if at all.
"""
