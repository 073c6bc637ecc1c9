"""The catalogue's schema, step by step; `bootferry-region migrate` takes the steps that are missing."""
