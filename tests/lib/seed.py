# SPDX-License-Identifier: LGPL-2.1-or-later
"""The seed of a random test: SEED in the environment, else a new one.

    from seed import SEED
    rng = random.Random(SEED)

It is printed before anything else; the same seed asks for the same things.
"""
import os
import random

SEED = int(os.environ.get('SEED') or 0) or random.SystemRandom().getrandbits(31)

print('# SEED=%d (run it again with this in the environment)' % SEED,
      flush=True)
