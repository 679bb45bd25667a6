"""The HTML report: one file with tables, figures, distilled images and records of a results folder."""
