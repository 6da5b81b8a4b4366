// pm2 start deploy/pm2/ecosystem.config.cjs
//
// Settings such as DATABASE_URL and REDIS_HOST come from the environment that
// pm2 is started in, or from .env in the folder `cwd`.

const common = {
  script: process.env.TERMITARY_BIN || '/usr/local/bin/termitary',
  cwd: process.env.TERMITARY_DIR || process.cwd(),
  // It is a program, not a script for Node.
  interpreter: 'none',
  exec_mode: 'fork',
  // pm2 would kill it after 1.6 s; running work may take 25 s to finish.
  kill_timeout: 30000,
  // The program says it is ready through /readyz, not through Node's channel.
  wait_ready: false,
  autorestart: true,
  exp_backoff_restart_delay: 200,
  // 2: the configuration is wrong. Starting again does not mend it.
  stop_exit_codes: [2],
  // The API listens on loopback: whoever comes from elsewhere comes through one proxy.
  env: { TERMITARY_ENV: 'production', LOG_FORMAT: 'json', TERMITARY_TRUSTED_PROXIES: '1' },
};

module.exports = {
  apps: [
    { ...common, name: 'termitary-api', args: 'api' },
    { ...common, name: 'termitary-worker', args: 'worker', instances: 2 },
  ],
};
