"""onnx_gconv in other people's pipelines: after an export, in a workflow, behind a training.

Each module is for one package of others and imports it only when it is asked to, if at all.
"""
