"""Serves a trained system: `python -m pipeline.serve`, with values of conf/serve as `serve.port=9000`."""

from pipeline.serve.serve import serve

if __name__ == "__main__":
    serve()
