/* Draws migrations from their events: those that are in the page, and, where an agent serves it, those that go on. */
'use strict';
(() => {
  const MIB = 2 ** 20;
  const COLOURS = ['#3b7dd8', '#e0823d', '#2aa87b', '#b04fc4', '#c9b037', '#d84b6a', '#888'];

  const count = (value) => Math.round(value).toLocaleString('en-US');
  const ms = (value) => (value >= 1000 ? `${(value / 1000).toFixed(2)} s` : `${value.toFixed(value < 10 ? 1 : 0)} ms`);
  const bytes = (value) => {
    const power = value < 1 ? 0 : Math.min(Math.floor(Math.log2(value) / 10), 4);
    return `${(value / 1024 ** power).toFixed(power === 0 ? 0 : 1)} ${['B', 'KiB', 'MiB', 'GiB', 'TiB'][power]}`;
  };

  /** Text is never taken for markup: names of processes are anybody's. */
  function make(name, attributes = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      node.setAttribute(key, value);
    }
    node.append(...children.filter((child) => child !== undefined));
    return node;
  }

  const of = (events, kind) => events.filter(({ event }) => event === kind);

  function figure(name, key, value, text) {
    return value === undefined ? undefined : make('div', {}, make('dt', {}, name), make('dd', { 'data-figure': key, 'data-value': value }, text(value)));
  }

  /** Lines where the process stood still, and where it began to run on the other host. */
  const moments = (marks) => ({
    hooks: {
      draw: (chart) => {
        for (const [seconds, colour] of marks) {
          const x = chart.valToPos(seconds, 'x', true);
          chart.ctx.strokeStyle = colour;
          chart.ctx.beginPath();
          chart.ctx.moveTo(x, chart.bbox.top);
          chart.ctx.lineTo(x, chart.bbox.top + chart.bbox.height);
          chart.ctx.stroke();
        }
      },
    },
  });

  function chart(title, unit, xs, series, marks) {
    const node = make('div');
    const lines = series.map(([label, values], i) => ({ label, stroke: COLOURS[i], width: 2, points: { show: true }, value: (_, value) => (value === null ? '' : `${count(value)} ${unit}`) }));
    const options = {
      title,
      width: 340,
      height: 230,
      scales: { x: { time: false, range: (_, min, max) => [0, Math.max(max, ...marks.map(([seconds]) => seconds)) * 1.03] }, y: { range: (_, min, max) => [0, Math.max(max * 1.1, 1)] } },
      axes: [{ values: (_, ticks) => ticks.map((tick) => `${tick} s`) }, { size: 62, values: (_, ticks) => ticks.map(count) }],
      series: [{ label: 's', value: (_, value) => (value === null ? '' : value.toFixed(2)) }, ...lines],
      plugins: [moments(marks)],
    };
    new uPlot(options, [xs, ...series.map(([, values]) => values)], node);
    return node;
  }

  function charts(events, rounds) {
    const start = events[0]?.at ?? 0;
    const seconds = (event) => (event.at - start) / 1000;
    const xs = rounds.map(seconds);
    const marks = [...of(events, 'freeze').map((e) => [seconds(e), '#d44']), ...of(events, 'commit').map((e) => [seconds(e), '#2a8'])];
    return make(
      'div',
      { class: 'charts' },
      chart('Dirty pages found by rounds', 'pages', xs, [['dirty', rounds.map((round) => round.pagesDirty)]], marks),
      chart('MiB a second', 'MiB/s', xs, [['sent', rounds.map((round) => round.bandwidth / MIB)], ['dirtied by the process', rounds.map((round) => round.dirtyRate / MIB)]], marks),
      chart('Predicted downtime, ms', 'ms', xs, [['predicted', rounds.map((round) => round.predictedDowntimeMs)]], marks),
    );
  }

  function phases(done) {
    const parts = Object.entries(done?.phases ?? {}).filter(([, value]) => value > 0);
    if (parts.length === 0) {
      return [];
    }
    const bar = parts.map(([name, value], i) => make('span', { style: `flex:${value} 0 0;background:${COLOURS[i % COLOURS.length]}`, title: `${name} ${ms(value)}` }));
    const legend = parts.map(([name, value], i) => make('li', { 'data-figure': `phases.${name}`, 'data-value': value }, make('i', { style: `background:${COLOURS[i % COLOURS.length]}` }), `${name} ${ms(value)}`));
    return [make('h3', {}, 'What the downtime consists of'), make('div', { class: 'phases' }, ...bar), make('ul', { class: 'legend' }, ...legend)];
  }

  function table(rounds) {
    const columns = [
      ['round', (r) => r.round],
      ['dirty pages', (r) => count(r.pagesDirty)],
      ['sent', (r) => bytes(r.bytesSent)],
      ['took', (r) => ms(r.ms)],
      ['rate', (r) => `${bytes(r.bandwidth)}/s`],
      ['dirtied', (r) => `${bytes(r.dirtyRate)}/s`],
      ['predicted downtime', (r) => ms(r.predictedDowntimeMs)],
    ];
    const rows = rounds.map((round) => make('tr', { 'data-round': JSON.stringify([round.round, round.pagesDirty, round.bytesSent]) }, ...columns.map(([, text]) => make('td', {}, String(text(round))))));
    return make('table', {}, make('tr', {}, ...columns.map(([name]) => make('th', {}, name))), ...rows);
  }

  function state(events, done) {
    const last = events.at(-1)?.event;
    return done?.outcome ?? ({ commit: 'runs there', freeze: 'stands still', round: 'is being copied', arm: 'is being copied' }[last] ?? 'begins');
  }

  function article({ id, side, events }) {
    const look = of(events, 'preflight')[0];
    const done = of(events, 'done')[0];
    const rounds = of(events, 'round');
    const who = done?.comm || look?.comm || 'a process';
    const said = [...of(events, 'notice').map(({ text }) => text), ...(look?.notices ?? []).map(({ sentence }) => sentence)];
    const wrong = [done?.error?.message, ...(done?.error?.obstacles ?? look?.obstacles ?? []).map(({ sentence }) => sentence)].filter((text) => text !== undefined);
    const to = side === 'target' ? ' to this host' : look === undefined ? '' : ` to ${look.host}`;
    return make(
      'article',
      { 'data-migration': id, 'data-side': side, 'data-outcome': done?.outcome ?? '' },
      make('h2', {}, `${who} (pid ${done?.pid || look?.pid || '?'})${to} `, make('span', { class: `outcome ${done?.outcome ?? ''}` }, state(events, done))),
      make('div', { class: 'said' }, `${new Date(events[0]?.at ?? 0).toLocaleString()}, migration ${id}`),
      ...wrong.map((text) => make('p', { class: 'error' }, text)),
      make(
        'dl',
        { class: 'figures' },
        figure('Downtime', 'downtimeMs', done?.outcome === 'failed' ? undefined : done?.downtimeMs, ms),
        figure('Total', 'totalMs', done?.totalMs, ms),
        figure('Sent', 'bytesSent', done?.bytesSent, bytes),
        figure('Resident', 'rssBytes', done?.rssBytes ?? look?.rssBytes, bytes),
        figure('Rounds', 'rounds', done?.rounds.length ?? (rounds.length || undefined), count),
        figure('Threads', 'threads', look?.threads, count),
      ),
      ...(rounds.length === 0 ? [] : [charts(events, rounds)]),
      ...phases(done),
      ...(rounds.length === 0 ? [] : [make('h3', {}, 'Rounds'), table(rounds)]),
      make('ul', { class: 'said' }, ...said.map((text) => make('li', {}, text))),
    );
  }

  const place = document.getElementById('migrations');
  const migrations = new Map();

  function draw(migration) {
    const drawn = article(migration);
    if (migration.node === undefined) {
      place.prepend(drawn);
    } else {
      migration.node.replaceWith(drawn);
    }
    migration.node = drawn;
  }

  let waiting = new Set();
  function take({ id, side, event }) {
    const key = `${id}.${side}`;
    const migration = migrations.get(key) ?? { id, side, events: [] };
    migrations.set(key, migration);
    migration.events.push(event);
    if (waiting.size === 0) {
      setTimeout(() => {
        const all = waiting;
        waiting = new Set();
        all.forEach(draw);
      }, 50);
    }
    waiting.add(migration);
  }

  const link = document.getElementById('link');
  function follow() {
    const socket = new WebSocket(`ws://${location.host}/live`);
    socket.addEventListener('open', () => {
      migrations.clear();
      place.replaceChildren();
      link.textContent = 'live';
    });
    socket.addEventListener('message', ({ data }) => take(JSON.parse(data)));
    socket.addEventListener('close', () => {
      link.textContent = 'the agent does not answer; trying again';
      setTimeout(follow, 2000);
    });
  }

  const data = JSON.parse(document.getElementById('data').textContent);
  document.getElementById('where').textContent = `${data.live ? 'agent on' : 'report of'} ${data.host}, phaul ${data.version}`;
  if (data.live) {
    follow();
  } else {
    data.migrations.forEach((migration) => draw({ ...migration }));
    document.title = `phaul: ${document.querySelector('h2')?.textContent ?? ''}`;
  }
})();
