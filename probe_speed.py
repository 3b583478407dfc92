"""Probe: where time goes in the fast path (not to be merged)."""
import json, os, time, traceback
from pathlib import Path
import torch
from pipeline.config import Paths, stage
from pipeline.benchmarks import speed as bench
from pipeline.benchmarks.speed import Speed, drawn
from pipeline.evaluation.variants import Variant
from pipeline.kg.facts import Graph, read_table
from pipeline.memory.settings import Memory
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

def kernels(name, f, n=5, rows=26):
    from torch.profiler import profile, ProfilerActivity
    acts = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if CUDA else [])
    f(); wait()
    with profile(activities=acts) as prof:
        for _ in range(n): f()
        wait()
    events = [e for e in prof.key_averages() if getattr(e, "self_device_time_total", 0) > 0]
    events.sort(key=lambda e: -e.self_device_time_total)
    note(name + " kernels", {"launches": sum(e.count for e in events) / n, "us": round(sum(e.self_device_time_total for e in events) / n)})
    for e in events[:rows]: print("      ", e.key[:100], e.count / n, round(e.self_device_time_total / n, 1))

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
    reader, size = system.reader, speed.batch_sizes[0]
    batch = texts[:size]
    with torch.no_grad():
        shape = (size, speed.prompt_tokens, speed.answer_tokens)
        fast = Fast(system, *shape, speed.fact_tokens, speed.backend); note("fast made", 0)
        finder = fast._finder
        def find():
            for w in finder._searches[:1]:
                finder.begin(batch); finder.finish(); note("finder compiled", 0)
                gpu(f"search {w.width}", w.run); kernels("search", w.run, rows=45)
        attempt(find)
        def agree():
            full = same = refused = 0; widths = []; n = 120 if size == 1 else size
            for i in range(0, n, size):
                got = finder.begin(texts[i:i + size]) and finder.finish()
                if not got: full += 1; continue
                mine, _ = system.chosen(*got); theirs, _ = system.select(texts[i:i + size])
                same += sum(a == b for a, b in zip(mine.facts, theirs.facts)); refused += sum(a == b for a, b in zip(mine.refused, theirs.refused))
                widths.append(fast._arena.read([system.memory.told(r) for r in mine.facts], [[0.0] * 9] * size).width)
            widths.sort()
            note("agree", {"of": n, "left to the ordinary path": full, "same facts": same, "same refusal": refused,
                "widths": [widths[len(widths) * q // 100] for q in (0, 25, 50, 75, 90, 99)] + [widths[-1]]})
        attempt(agree)
        def totals():
            q = system.query(texts[:200]); t = finder.tables
            near, heads = t._nearest(q.key, memory.entities)
            heads = heads.clamp(max=len(t._start) - 2)
            c = sorted((t._start[heads + 1] - t._start[heads]).sum(1).tolist())
            note("facts around the heads", [c[len(c) * x // 100] for x in (0, 25, 50, 75, 90, 95, 99)] + [c[-1]])
            note("longest", [x.longest for x in finder.letters._name] + [finder.letters._noun.longest])
            widths = sorted(max(len(system.encoder.tokens([x])[0]), len(reader.encode([x])[0])) for x in texts)
            note("tokens of questions", [widths[len(widths) * q // 100] for q in (0, 50, 90, 99)] + [widths[-1]])
        attempt(totals)
        def micro():
            dt = reader.lm.dtype; dev = reader.device
            for B in (1, 16):
                for S in (112, 176, 352):
                    q = torch.randn(B, 3, 3, 64, dtype=dt, device=dev); k, v = torch.randn(2, B, 3, S, 64, dtype=dt, device=dev)
                    m = torch.zeros(B, 1, 3, S, dtype=dt, device=dev)
                    def sdpa(): return torch.nn.functional.scaled_dot_product_attention(q, k, v, m, scale=0.125)
                    def plain():
                        p = ((q @ k.transpose(-1, -2)).float() * 0.125 + m).softmax(-1); return p.to(dt) @ v
                    torch._dynamo.reset()
                    summed = torch.compile(lambda: attend_once(q, k, v, m, 0.125), dynamic=False) if CUDA else (lambda: attend_once(q, k, v, m, 0.125))
                    for name, f in (("sdpa", sdpa), ("matmuls", plain), ("sums", summed)):
                        if not CUDA: f(); continue
                        s = torch.cuda.Stream()
                        with torch.cuda.stream(s):
                            f(); f()
                        wait(); g = torch.cuda.CUDAGraph()
                        with torch.cuda.graph(g):
                            for _ in range(30): f()
                        g.replay(); wait(); a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                        a.record(); [g.replay() for _ in range(5)]; b.record(); wait()
                        note(f"attention {name} B={B} S={S} us", round(a.elapsed_time(b) / 150 * 1000, 2))
        if size == 1: attempt(micro)
        if os.environ.get("PROBE") == "search": return
        fast.first(batch); fast.step(); note("fast compiled", 0)
        def forty(d):
            for _ in range(40): d.step()
        def graphs(name, d):
            now = d._now
            if d._below is not None: gpu(name + " below", d._below.run)
            gpu(name + " prefill", now._prompts); d._places.at.fill_(60); gpu(name + " step", now._next, 20)
            d._places.at.fill_(60); kernels(name + " step", now._next); kernels(name + " prefill", now._prompts)
            def g():
                d.done = 0; d._places.at.fill_(speed.prompt_tokens); forty(d)
            host(name + " 40 steps", g, 15)
        attempt(graphs, "ours", fast._decoder)
        def hosts():
            found = None
            host("prompts", lambda: reader.prompts(batch)); host("encoder tokens", lambda: system.encoder.tokens(batch))
            host("lm tokens", lambda: reader.encode(batch)); host("letters.ask", lambda: finder.letters.ask(batch))
            host("follow", lambda: finder.follow()); host("begin", lambda: finder.begin(batch))
            host("begin+finish", lambda: (finder.begin(batch), finder.finish()))
            found = finder.finish(); host("chosen", lambda: system.chosen(*found)); host("chosen+read", lambda: fast._chosen(batch, found))
            host("found", lambda: fast.found(batch))
            prompts = reader.prompts(batch); chosen, facts = fast.found(batch); note("facts width", facts.width)
            host("decoder.begin", lambda: fast._decoder.begin(prompts)); host("decoder.finish", lambda: fast._decoder.finish(facts))
            host("first", lambda: fast.first(batch))
        attempt(hosts)
        bare = Decoder(reader, *shape, backend=speed.backend)
        bare.prefill(reader.prompts(batch)); bare.step(); note("bare compiled", 0)
        attempt(graphs, "bare", bare)
        def benchmark():
            kept = bench.Decoder, bench.Fast
            bench.Decoder, bench.Fast = (lambda *a, **k: bare), (lambda *a, **k: fast)
            try: note("SUMMARY", bench.summary(bench.timed(system, texts, size, speed, "probe"), speed))
            finally: bench.Decoder, bench.Fast = kept
        attempt(benchmark)
        def timeline():
            from torch.profiler import profile, ProfilerActivity
            acts = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if CUDA else [])
            with profile(activities=acts) as prof:
                for _ in range(3):
                    with torch.profiler.record_function("FIRST"): fast.first(batch); wait()
                    with torch.profiler.record_function("BARE"): bare.prefill(reader.prompts(batch)); wait()
            prof.export_chrome_trace("speed_trace.json.gz")
        attempt(timeline)

if __name__ == "__main__":
    probe()
