/** criu's check: can this host do what phaul needs? */
import { Command, Option } from 'commander';
import { PhaulError } from '../errors.ts';
import { NEEDED, requireFeature, FEATURES } from './features.ts';

interface CheckFlags {
  feature?: string[];
  all?: true;
  extra?: true;
  experimental?: true;
}

export const checkCommand = (): Command =>
  new Command('check')
    .description("Says whether the kernel can do what phaul needs, or what is needed for a feature, by criu's names.")
    .addOption(new Option('--feature <name>', 'the feature; repeat for more').argParser((text: string, before: string[] | undefined) => [...(before ?? []), text]))
    .addOption(new Option('--all', 'all features that phaul makes use of'))
    .addOption(new Option('--extra', 'the same'))
    .addOption(new Option('--experimental', 'the same'))
    .addOption(new Option('-v, --verbosity [level]', 'the answer is the same at every level'))
    .addOption(new Option('--no-default-config', 'there is no configuration file'))
    .action(({ feature, all, extra, experimental }: CheckFlags) => {
      const asked = feature ?? (all === true || extra === true || experimental === true ? FEATURES : NEEDED);
      if (feature === undefined && process.geteuid?.() !== 0) {
        throw new PhaulError('ERR_NOT_ROOT', 'To stop, read and build processes takes root.');
      }
      asked.forEach(requireFeature);
      if (feature === undefined) {
        process.stdout.write('Looks good.\n');
      }
    });
