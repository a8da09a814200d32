import os, signal


def test_a(rabbit, bucket, s3_server):
    print(rabbit.listing("queues", "name", "messages"))
    print(rabbit.depth("tasks.simulated"))


def test_b(rabbit):
    import time

    t = time.time()
    rabbit.restart()
    print("restart", time.time() - t)
    t = time.time()
    rabbit.close_connections()
    print("close", time.time() - t)
    t = time.time()
    rabbit.purge()
    print("purge", time.time() - t)


def test_c(rabbit):
    if os.environ.get("SIG"):
        os.kill(os.getpid(), int(os.environ["SIG"]))
