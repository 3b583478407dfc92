"""Checks and times the kernels: python3 micro.py [codes]."""
import sys, time
import torch
from pipeline.memory import scan
from pipeline.memory.kernels import Kernels

E = int(float(sys.argv[1])) if len(sys.argv) > 1 else 50_000_000
cuda = torch.cuda.is_available()
dev = torch.device("cuda" if cuda else "cpu")
g = torch.Generator(dev).manual_seed(0)
T = time.time()
def say(*a): print(f"{time.time()-T:6.1f}", *a, flush=True)
def table(n):
    words = torch.randint(-2**63, 2**63-1, (6, n), generator=g, device=dev)
    return scan.Table(words, (torch.rand(n, generator=g, device=dev) * 0.02 + 0.09).half())
def timed(run, times=10):
    took = []
    for i in range(times + 1 if cuda else 1):
        s = time.perf_counter(); run()
        if cuda: torch.cuda.synchronize()
        took.append((time.perf_counter()-s)*1000)
    return f"median {sorted(took)[len(took)//2]:.3f} ms, first {took[0]:.1f}"
K, plain = Kernels(), scan.Plain()
small = table(min(E, 300_000) + 37)
small.words[:, 1000:1200] = small.words[:, 1000:1001]; small.factors[1000:1200] = small.factors[1000]
for B in (1, 40, 300) if cuda else (2,):
    a = scan.rounded(torch.randn(B, 384, generator=g, device=dev), 6)
    p, q = K.peaks(small, a), plain.peaks(small, a)
    x, y = scan.largest(small, a, 114, K), scan.largest(small, a, 114, plain)
    say("check", B, "peaks same", torch.equal(p, q), (p - q).abs().max().item(), "largest same", torch.equal(x, y))
big = table(E)
for B in (1, 64, 256) if cuda else (1,):
    a = scan.rounded(torch.randn(B, 384, generator=g, device=dev), 6)
    say("peaks", B, timed(lambda: K.peaks(big, a)))
    peaks = K.peaks(big, a)
    tiles = scan._first(peaks, min(114, peaks.shape[1]))
    say("first", B, timed(lambda: scan._first(peaks, min(114, peaks.shape[1]))))
    say("within", B, timed(lambda: K.within(big, a, tiles)))
    say("largest", B, timed(lambda: scan.largest(big, a, min(114, E), K)))
if cuda: say("reserved GiB", torch.cuda.memory_reserved() / 2**30)
