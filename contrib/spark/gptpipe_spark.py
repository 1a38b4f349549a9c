"""gptpipe over records of (key, text) in Spark: each comes back as (key, reply, error), in order, one for one.

    sc.addPyFile("gptpipe_spark.py")
    from gptpipe_spark import ask
    rows = ask(frame.select("id", "text").rdd.map(tuple), "positive, negative or neutral? one word", "--jobs", "16")
    rows.toDF("id long, reply string, error string").write.parquet("sentiments")

`rdd.pipe` does where the text alone goes in and out. This is for what it cannot do: a key beside each text, texts with
line ends in them (a blank takes their place), records that fail without their partition failing, and the executor's
own environment, where `rdd.pipe` gives the program an empty one.

A record that failed for good has no reply and an error; a blank one has an empty reply and is not sent. What would fail
every further record too (the key, the quota) fails the task, as does anything else that ends gptpipe early. A task that
is run again sends only what is not remembered yet: on the same host, or on any if `cache_folder` is on storage that all
of them share. Every partition has a cache file of its own there, since one file is for the processes of one host.
"""

import collections
import itertools
import json
import os
import re
import subprocess
import threading

# Whatever some reader takes for the end of a line.
_LINE_ENDS = re.compile("[\r\n]+")


def ask(rdd, prompt, *options, program="gptpipe", environment=None, cache_folder=None):
    """An RDD of (key, reply, error) for one of (key, text).

    `options` are further words of the command line, `environment` is set on top of the executor's own. A key for the
    API does not belong there: it would be part of the job. Let the executor's host have it, as any other program's.
    """
    command = [program, "--by", "line", "--format", "jsonl", "--on-error", "skip", "--progress", "never", *options]

    def partition(index, records):
        cache = []
        if cache_folder is not None:
            cache = ["--cache", os.path.join(cache_folder, f"part-{index:05}.db")]
        return _replies([*command, *cache, "--", prompt], {**os.environ, **(environment or {})}, records)

    return rdd.mapPartitionsWithIndex(partition)


def _replies(command, environment, records):
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    # Of records that are on their way; gptpipe reads only so far ahead.
    keys = collections.deque()
    failures = []

    def feed():
        try:
            with process.stdin as stdin:
                for key, text in records:
                    keys.append(key)
                    stdin.write(_LINE_ENDS.sub(" ", text or "").encode() + b"\n")
        except BrokenPipeError:
            pass  # Its status says why it has left.
        except BaseException as failure:
            # What came before is not all there was.
            failures.append(failure)
            process.kill()

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    try:
        given = 0
        # A record above the bound of a chunk is several, all of one line.
        for line, chunks in itertools.groupby(map(json.loads, process.stdout), lambda chunk: chunk["line"]):
            while given + 1 < line:
                given += 1
                yield keys.popleft(), "", None
            chunks = list(chunks)
            error = next((chunk["error"]["message"] for chunk in chunks if chunk["error"]), None)
            given += 1
            yield keys.popleft(), None if error else " ".join(chunk["text"] for chunk in chunks), error
        status = process.wait()
        feeder.join()
        if failures:
            raise failures[0]
        # 1 is for records that failed, which their rows tell.
        if status not in (0, 1):
            raise RuntimeError(f"gptpipe ended with status {status}; what it said is on the executor's standard error")
        while keys:
            yield keys.popleft(), "", None
    finally:
        # Whoever wanted only some of it ends the requests in flight too.
        process.terminate()
        process.wait()
        process.stdout.close()
        feeder.join()
