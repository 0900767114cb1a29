import manifest from '../package.json' with { type: 'json' };

/** Agents work together only with their own version. */
export const version: string = manifest.version;
