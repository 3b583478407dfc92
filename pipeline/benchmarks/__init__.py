"""Commands that measure one part against published figures; none is a stage of the DAG."""
