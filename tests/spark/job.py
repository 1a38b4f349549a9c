"""What tests/it/engines.rs has Spark do: job.py MASTER GPTPIPE URL HOME. One line of JSON for each part.

Each part has a prompt of its own, by which the server tells their requests apart.
"""

import json
import os
import shlex
import sys

from pyspark import SparkConf, SparkContext

from gptpipe_spark import ask

master, gptpipe, url, home = sys.argv[1:]
settings = {
    "spark.master": master,
    "spark.app.name": "gptpipe",
    "spark.ui.enabled": "false",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.task.maxFailures": "3",
    "spark.executorEnv.HOME": home,
    "spark.executorEnv.GPTPIPE_BASE_URL": url,
}
sc = SparkContext(conf=SparkConf().setAll(settings.items()))
sc.addPyFile(sys.modules["gptpipe_spark"].__file__)
sc.setLogLevel("OFF")

texts = [f"record {number} ü" for number in range(400)]
# Whatever the executor's environment is, this is all that the program gets.
own = {"HOME": home, "GPTPIPE_BASE_URL": url}


def command(*words):
    return shlex.join([gptpipe, "-b", "line", "-m", "m", *words])


def tell(part, get):
    """What came of a part, or the last line of what Spark says why nothing did."""
    try:
        told = {"part": part, "rows": get()}
    except Exception as error:
        told = {"part": part, "error": str(error)}
    print(json.dumps(told), flush=True)


def pipe(part, records, partitions, *options, env=own, **settings):
    """A part that is one command; its name is its prompt."""
    piped = sc.parallelize(records, partitions).pipe(command(*options, part), env=env, **settings)
    tell(part, piped.collect)


pipe("order", texts, 4, checkCode=True)
pipe("blank", ["a", "", "  ", "b"], 1, checkCode=True)
pipe("empty", ["alone"], 4, checkCode=True)
# The server refuses one record for the first time, and the task is run again.
pipe("retried", texts[:50], 1, "-j", "1", "--retries", "0", checkCode=True)
pipe("refused", ["a", "refused", "b"], 1, "-j", "1", checkCode=True)
pipe("unseen", ["a", "refused", "b"], 1, "-j", "1")
pipe("skipped", ["a", "refused", "b"], 1, "--on-error", "skip")
pipe("homeless", ["a"], 1, "--rate", "100/s", env={"HOME": "/dev/null", "GPTPIPE_BASE_URL": url}, checkCode=True)
# Nothing at all is set.
pipe("bare", ["a"], 1, "--base-url", url, "--cache", ":memory:", env={}, checkCode=True)
many = sc.parallelize([f"number {number}" for number in range(20000)], 1)
tell("left", lambda: many.pipe(command("-j", "1", "left"), env=own).take(1))

records = [(number, text) for number, text in enumerate(["one", "two\nlines", "", "refused", " ", "five\r\n", None])]


def helper(part, records, partitions, **settings):
    rows = ask(sc.parallelize(records, partitions), part, "-m", "m", program=gptpipe, **settings)
    tell(part, rows.collect)


helper("helper", records, 2)
helper("again", [(number, text) for number, text in enumerate(texts)], 4, cache_folder=os.path.join(home, "shared"))
helper("again", [(number, text) for number, text in enumerate(texts)], 4, cache_folder=os.path.join(home, "shared"))
helper("long", [(1, "word " * 100), (2, "short")], 1, environment={"GPTPIPE_PROFILE": "openai"})
helper("denied", [(1, "denied"), (2, "a")], 1)
sc.stop()
