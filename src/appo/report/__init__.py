"""What a person looks at: pictures, progress, the model card."""
