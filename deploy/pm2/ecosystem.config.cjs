// pm2 start deploy/pm2/ecosystem.config.cjs
//
// Settings such as DATABASE_URL and REDIS_HOST come from the environment of pm2,
// or from .env in the folder `cwd`.

const common = {
  script: process.env.TERMITARY_BIN || '/usr/local/bin/termitary',
  cwd: process.env.TERMITARY_DIR || process.cwd(),
  // A native program, not a Node script.
  interpreter: 'none',
  exec_mode: 'fork',
  // The default would kill it after 1.6 s; running handlers have 25 s to finish.
  kill_timeout: 30000,
  // Readiness is at /readyz, not on Node's channel.
  wait_ready: false,
  autorestart: true,
  exp_backoff_restart_delay: 200,
  // 2: the configuration is wrong, so a restart does not help.
  stop_exit_codes: [2],
  // The API listens on loopback, so remote clients come through one proxy.
  env: { TERMITARY_ENV: 'production', LOG_FORMAT: 'json', TERMITARY_TRUSTED_PROXIES: '1' },
};

module.exports = {
  apps: [
    { ...common, name: 'termitary-api', args: 'api' },
    { ...common, name: 'termitary-worker', args: 'worker', instances: 2 },
  ],
};
