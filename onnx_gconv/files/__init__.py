"""Reading and writing of models, arrays and folders: whole or not at all."""
