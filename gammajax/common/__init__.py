"""What all others build on: numbers of models, texts of objects, progress, files, processes."""
