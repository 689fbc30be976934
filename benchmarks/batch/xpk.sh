#!/usr/bin/env bash
# The paper preset on a spot TPU v5e slice of 16 chips, four hosts, in a cluster that xpk made; then
# the merge:
#
#   CLUSTER=... IMAGE=REGISTRY/jaxprune:tpu BUCKET=... benchmarks/batch/xpk.sh [--dry-run]
#   python -m benchmarks.merge gs://$BUCKET/paper
#
# The nodes' service account has to be allowed to write the bucket. Each host is a shard, by its
# TPU_WORKER_ID.
set -euo pipefail

xpk workload create \
  --cluster "$CLUSTER" \
  --workload jaxprune \
  --tpu-type v5litepod-16 \
  --spot \
  --docker-image "$IMAGE" \
  --env JAX_PLATFORMS=tpu \
  --env "JAX_COMPILATION_CACHE_DIR=gs://$BUCKET/xla" \
  --max-restarts 50 \
  --restart-on-exit-codes 75 \
  --termination-grace-period-seconds 30 \
  --command "exec python -m benchmarks.run --preset paper --env hopper --out gs://$BUCKET/paper --chunk-seeds 1 --shard auto --require tpu" \
  "$@"
