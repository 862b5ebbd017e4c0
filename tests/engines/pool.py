"""A pool of workers for Python's part, as `worker_pool_main`, on an address of its own.

Beam's takes a port on all addresses. One pool can't serve two engines' workers: both
number their Python workers from 1, and the end of one would end the other's.
"""

import sys
import threading
from concurrent import futures

import grpc
from apache_beam.portability.api import beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer

if __name__ == "__main__":
    server = grpc.server(futures.ThreadPoolExecutor(8))
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(
        BeamFnExternalWorkerPoolServicer(
            use_process=True, data_buffer_time_limit_ms=-1
        ),
        server,
    )
    assert server.add_insecure_port(sys.argv[1])
    server.start()
    threading.Event().wait()
