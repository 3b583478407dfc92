"""Probe: where time goes in the fast path (not to be merged)."""
import json, sys, time, traceback
from dataclasses import replace
from pathlib import Path
import torch
from pipeline.config import Paths, stage
from pipeline.benchmarks.speed import Speed, drawn
from pipeline.evaluation.variants import Variant
from pipeline.kg.facts import Graph, read_table
from pipeline.memory.settings import Memory
from pipeline.model import finder as finder_module
from pipeline.model.decoder import Decoder
from pipeline.model.fast import Fast
from pipeline.model.places import attend_once
from pipeline.trainer import Trainer
from pipeline.weights import Encoder, LanguageModel

BEGAN = time.perf_counter()
CUDA = torch.cuda.is_available()
told = {}

def note(name, value):
    told[name] = value
    print(f"[{time.perf_counter() - BEGAN:6.1f}s] {name}: {value}", flush=True)
    Path("speed_probe.json").write_text(json.dumps(told, indent=1, default=str))

def wait():
    if CUDA: torch.cuda.synchronize()

def host(name, f, n=30):
    f(); wait(); took = []
    for _ in range(n):
        a = time.perf_counter(); f(); b = time.perf_counter(); wait(); c = time.perf_counter()
        took.append((b - a, c - a))
    took.sort(key=lambda x: x[1]); m = took[n // 2]
    note(name + " us (returned, done)", [round(x * 1e6) for x in m])

def gpu(name, f, n=50):
    if not CUDA: f(); return
    f(); wait()
    a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    a.record()
    for _ in range(n): f()
    b.record(); wait()
    note(name + " us on the GPU, back to back", round(a.elapsed_time(b) / n * 1000, 1))

def kernels(name, f, n=5, rows=22):
    from torch.profiler import profile, ProfilerActivity
    acts = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if CUDA else [])
    f(); wait()
    with profile(activities=acts) as prof:
        for _ in range(n): f()
        wait()
    events = [e for e in prof.key_averages() if getattr(e, "self_device_time_total", 0) > 0]
    events.sort(key=lambda e: -e.self_device_time_total)
    note(name + " kernels", {"launches": sum(e.count for e in events) / n, "us": sum(e.self_device_time_total for e in events) / n,
        "top": [[e.key[:90], e.count / n, round(e.self_device_time_total / n, 1)] for e in events[:rows]]})

def attempt(f, *a):
    try: f(*a)
    except Exception: note("failed " + f.__name__, traceback.format_exc()[-1500:])

@stage
def probe(speed: Speed, memory: Memory, lm: LanguageModel, encoder: Encoder, trainer: Trainer, paths: Paths, out: Path) -> None:
    graph = Graph.read(paths.tables, relations=paths.kv)
    asked = [row["text"] for row in read_table(paths.kv, "questions").to_pylist() if row["split"] == speed.split and row["facts"]]
    system = Variant.read(speed.entries[0], memory).open(lm, encoder, graph, paths, trainer.device, speed.seed)
    texts = drawn(system, asked, speed)[:400]
    note("opened", [len(system.memory), len(system.memory.entities), len(system.memory.relations)])
    reader, size = system.reader, 1
    with torch.no_grad():
        system.select(texts[:1]); note("laid out", 0)
        shape = (size, speed.prompt_tokens, speed.answer_tokens)
        fast = Fast(system, *shape, [48], speed.backend); note("fast made again", 0)
        finder = fast._finder
        if finder is not None:
            s = finder._searches[1]
            def one():
                finder.begin(["a " * 16]); finder.finish()
            attempt(one); note("finder compiled", 0)
        def search_only():
            for w in finder._searches[:2]: gpu(f"search {w.width}", w.run)
            kernels("search", w.run, rows=40)
            text = texts[0]
            host("prompts", lambda: reader.prompts([text])); host("encoder tokens", lambda: system.encoder.tokens([text]))
            host("lm tokens", lambda: reader.encode([text])); host("letters.ask", lambda: finder.letters.ask([text]))
            host("follow", lambda: finder.follow()); host("begin", lambda: finder.begin([text]))
            host("begin+finish", lambda: (finder.begin([text]), finder.finish()))
            found = finder.finish(); host("chosen", lambda: system.chosen(*found)); host("chosen+read", lambda: fast._chosen([text], found))
            host("found", lambda: fast.found([text]))
        attempt(search_only)
        def agree():
            full = wide = same = refused = 0; widths = []
            n = 200
            for text in texts[:n]:
                got = finder.begin([text]) and finder.finish()
                if not got: full += 1; continue
                mine, _ = system.chosen(*got); theirs, _ = system.select([text])
                same += mine.facts == theirs.facts; refused += mine.refused == theirs.refused
                widths.append(fast._arena.read([list(map(system.memory.text, mine.facts[0]))], [[0.0] * 9]).width)
            widths.sort()
            note("agree", {"of": n, "left to the ordinary path": full, "same facts": same, "same refusal": refused,
                "widths": [widths[len(widths) * q // 100] for q in (0, 25, 50, 75, 90, 99)] + [widths[-1]]})
        attempt(agree)
        def totals():
            q = system.query(texts[:200]); t = finder.tables
            near, heads = t._nearest(q.key, memory.entities)
            c = (t._start[heads.clamp(max=len(t._start) - 2) + 1] - t._start[heads.clamp(max=len(t._start) - 2)]).sum(1)
            c = sorted(c.tolist()); note("facts around 200 heads", [c[len(c) * x // 100] for x in (0, 25, 50, 75, 90, 95, 99)] + [c[-1]])
            note("longest", [x.longest for x in finder.letters._name] + [finder.letters._noun.longest])
        attempt(totals)
        def micro():
            dt = reader.lm.dtype; dev = reader.device
            for B in (1, 16):
                for S in (112, 144, 352):
                    q = torch.randn(B, 3, 3, 64, dtype=dt, device=dev); k, v = torch.randn(2, B, 3, S, 64, dtype=dt, device=dev)
                    m = torch.zeros(B, 1, 3, S, dtype=dt, device=dev)
                    def sdpa(): return torch.nn.functional.scaled_dot_product_attention(q, k, v, m, scale=0.125)
                    def plain():
                        p = ((q @ k.transpose(-1, -2)).float() * 0.125 + m).softmax(-1); return p.to(dt) @ v
                    torch._dynamo.reset()
                    summed = torch.compile(lambda: attend_once(q, k, v, m, 0.125), dynamic=False) if CUDA and B == 1 else (lambda: attend_once(q, k, v, m, 0.125))
                    for name, f in (("sdpa", sdpa), ("matmuls", plain), ("sums", summed)):
                        if not CUDA: f(); continue
                        s = torch.cuda.Stream(); 
                        with torch.cuda.stream(s):
                            f(); f()
                        wait(); g = torch.cuda.CUDAGraph()
                        with torch.cuda.graph(g):
                            for _ in range(30): f()
                        g.replay(); wait(); a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                        a.record(); [g.replay() for _ in range(5)]; b.record(); wait()
                        note(f"attention {name} B={B} S={S} us", round(a.elapsed_time(b) / 150 * 1000, 2))
        attempt(micro)
        import os
        if os.environ.get('PROBE') != 'all': return
        bare = Decoder(reader, *shape, backend=speed.backend)
        bare.warm(); note("bare compiled", 0)
        fast = Fast(system, *shape, [32, 240], ""); note("fast made", 0)
        attempt(lambda: fast._decoder.warm()); note("decoder compiled", 0)
        one_text = texts[0]
        def pick():
            for text in texts[:20]:
                if fast.found([text])[1].width <= 48: return text
            return texts[0]
        try: one_text = pick()
        except Exception: note("failed pick", traceback.format_exc()[-1500:])
        note("text", one_text)
        prompts = reader.prompts([one_text])
        def rest():
            host("prompts", lambda: reader.prompts([one_text]))
            host("encoder tokens", lambda: system.encoder.tokens([one_text]))
            host("lm tokens", lambda: reader.encode([one_text]))
            host("letters.ask", lambda: finder.letters.ask([one_text]))
            host("follow", lambda: finder.follow())
            host("begin", lambda: finder.begin([one_text]))
            host("begin+finish", lambda: (finder.begin([one_text]), finder.finish()))
            found = finder.finish()
            host("chosen", lambda: system.chosen(*found))
            chosen, shares = system.chosen(*found)
            host("chosen+read", lambda: fast._chosen([one_text], found))
            host("found", lambda: fast.found([one_text]))
            chosen, facts = fast.found([one_text])
            note("facts width", facts.width)
            host("decoder.begin", lambda: fast._decoder.begin(prompts))
            host("decoder.finish", lambda: fast._decoder.finish(facts))
            host("first", lambda: fast.first([one_text]))
            host("bare prefill", lambda: bare.prefill(reader.prompts([one_text])))
            def forty(d):
                for _ in range(40): d.step()
            for name, d in (("bare", bare), ("ours", fast._decoder)):
                d.prefill(prompts)
                def g(d=d):
                    d.done = 0; d._places.at.fill_(speed.prompt_tokens); forty(d)
                host(name + " 40 steps", g, 15)
        attempt(rest)
        def graphs():
            now = fast._decoder._now
            gpu("below", fast._decoder._below.run); gpu("above", now._prompts)
            fast._decoder._places.at.fill_(60); gpu("step", now._next, 20)
            b = bare._now
            gpu("bare prefill", b._prompts); bare._places.at.fill_(60); gpu("bare step", b._next, 20)
            for s in finder._searches[:2]: gpu(f"search {s.width}", s.run)
            kernels("search", s.run)
            kernels("bare prefill", b._prompts); kernels("above", now._prompts)
            bare._places.at.fill_(60); fast._decoder._places.at.fill_(60)
            kernels("bare step", b._next); kernels("step", now._next)
        attempt(graphs)
        def timeline():
            from torch.profiler import profile, ProfilerActivity
            acts = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if CUDA else [])
            with profile(activities=acts) as prof:
                for _ in range(3):
                    with torch.profiler.record_function("FIRST"): fast.first([one_text]); wait()
                    with torch.profiler.record_function("BARE"): bare.prefill(reader.prompts([one_text])); wait()
            prof.export_chrome_trace("speed_trace.json.gz")
        attempt(timeline)


if __name__ == "__main__":
    probe()
