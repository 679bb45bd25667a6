"""One HTML file of all results: tables, figures, distilled images and records. Imports no torch and no pandas."""
