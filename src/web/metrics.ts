/** The same in Prometheus's format, since the records begin, which is the start of the host at the earliest. */
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import { version } from '../version.ts';
import type { Follower, Told } from './follow.ts';

/** Of downtimes and of whole migrations. */
const DOWNTIME_BUCKETS = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 15];
const TOTAL_BUCKETS = [1, 2, 5, 10, 30, 60, 300, 900, 3600];

export class Metrics {
  readonly #registry = new Registry();
  readonly #labels = { registers: [this.#registry], labelNames: ['side'] as const };
  readonly #ended = new Counter({ name: 'phaul_migrations_total', help: 'Migrations that have ended, by outcome', registers: [this.#registry], labelNames: ['side', 'outcome'] });
  readonly #active = new Gauge({ name: 'phaul_migrations_active', help: 'Migrations under way', ...this.#labels });
  readonly #downtime = new Histogram({ name: 'phaul_downtime_seconds', help: 'How long processes that moved stood still', buckets: DOWNTIME_BUCKETS, ...this.#labels });
  readonly #total = new Histogram({ name: 'phaul_migration_seconds', help: 'How long migrations took from the first look on', buckets: TOTAL_BUCKETS, ...this.#labels });
  readonly #bytes = new Counter({ name: 'phaul_sent_bytes_total', help: 'Bytes of memory on the wire', ...this.#labels });
  readonly #rounds = new Counter({ name: 'phaul_rounds_total', help: 'Rounds of copying', ...this.#labels });
  readonly #under = new Set<string>();

  constructor(follower: Follower) {
    new Gauge({ name: 'phaul_info', help: 'Which phaul this is', registers: [this.#registry], labelNames: ['version'] }).set({ version }, 1);
    for (const side of ['source', 'target']) {
      this.#active.set({ side }, 0);
    }
    follower.told.forEach((told) => this.#take(told));
    follower.listen((told) => this.#take(told));
  }

  text(): Promise<string> {
    return this.#registry.metrics();
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  #take({ id, side, event }: Told): void {
    const key = `${id}.${side}`;
    if (!this.#under.has(key)) {
      this.#under.add(key);
      this.#active.inc({ side });
    }
    if (event.event === 'round') {
      this.#rounds.inc({ side });
    }
    if (event.event === 'done') {
      this.#under.delete(key);
      this.#active.dec({ side });
      this.#ended.inc({ side, outcome: event.outcome });
      this.#total.observe({ side }, event.totalMs / 1000);
      this.#bytes.inc({ side }, event.bytesSent);
      if (event.outcome === 'moved') {
        this.#downtime.observe({ side }, event.downtimeMs / 1000);
      }
    }
  }
}
