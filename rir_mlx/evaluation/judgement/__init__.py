"""What a comparison means: the headline, the verdict, which classifier to use, and what to be careful about."""
