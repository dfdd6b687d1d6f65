"""The composition of the stages: pipeline, gallery, catalogue, report, and the command."""
