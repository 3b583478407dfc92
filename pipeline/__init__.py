"""A language model that answers from a knowledge graph which changes while it runs.

The DAG of `dvc.yaml`: `ingest` turns a source into tables; `embed` trains RotatE on its facts;
`synthesize` turns facts into questions, keys and values (KG2KV); `index` encodes entities, relations
and slots for the memory; `train` fits an adapter on a frozen language model (L_LM + α·L_Aux);
`evaluate` asks every method the same questions; `report` gathers what they found.
"""
