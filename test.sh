#!/usr/bin/env bash
# Starts private database servers, runs every test against them, and leaves nothing behind.
#
#   ./test.sh          all tests
#   ./test.sh --long   with the long ones
#   ./test.sh -- ARGS  ARGS go to cargo test (a test's name, --test it, …)
#   ./test.sh --run COMMAND ARGS…   another command than cargo test, with the same servers
#   ./test.sh --durable …           servers that wait for the disk, as in production
#
# Each server listens on 127.0.0.1 at a free port, with its data in one temporary folder. Servers
# that already run on this machine are neither used nor touched.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

long=
durable=
run=(cargo test --locked)
while [ $# -gt 0 ]; do
  case $1 in
    --long) long=1; shift ;;
    --durable) durable=1; shift ;;
    --run) shift; run=(); break ;;
    --) shift; break ;;
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "test.sh: unknown option '$1' (known: --long, --durable, --run, --help, -- ARGS)" >&2; exit 2 ;;
  esac
done

PATH=$PATH:/usr/sbin:/sbin
is_root() { [ "$(id -u)" = 0 ]; }

# --- what stops again, whatever happens ---

# Servers by process id: each was started by this script, as the leader of its own session, so
# that a Ctrl-C on the terminal reaches this script alone, which then stops them in order.
pids=()
tests= # the same for cargo or the command
work=

stop_all() {
  local status=$? pid
  trap - EXIT
  trap '' INT TERM HUP # a second Ctrl-C must not leave servers behind
  [ -z "$tests" ] || kill -TERM -- "-$tests" 2>/dev/null || true
  for pid in "${pids[@]}"; do kill -INT "$pid" 2>/dev/null || true; done # fast stop for postgres
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  [ -z "$work" ] || rm -rf --one-file-system "$work"
  exit "$status"
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# --- programs ---

# A program in PATH or in the folders where distributions hide servers; the newest one.
find_program() {
  command -v "$1" && return
  local found
  found=$(ls -d /usr/lib/postgresql/*/bin/"$1" /usr/libexec/"$1" 2>/dev/null | sort -V | tail -n 1)
  [ -n "$found" ] && echo "$found"
}

find_all() {
  mariadbd=$(find_program mariadbd) && mariadb_install=$(find_program mariadb-install-db) \
    && initdb=$(find_program initdb) && postgres=$(find_program postgres)
}

# Installs packages without letting their services start.
apt_install() {
  local policy=/usr/sbin/policy-rc.d ours= status=0
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy && ours=1
  fi
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"; } \
    </dev/null >"$work/apt.log" 2>&1 || status=$?
  [ -z "$ours" ] || rm -f $policy
  return $status
}

work=$(mktemp -d "${TMPDIR:-/tmp}/rowferry-test.XXXXXX")
chmod 755 "$work"

if ! find_all; then
  if is_root && command -v apt-get >/dev/null; then
    echo "Installing MariaDB and PostgreSQL (mariadb-server, postgresql)"
    apt_install mariadb-server postgresql || { tail -n 20 "$work/apt.log" >&2; echo "test.sh: could not install mariadb-server and postgresql" >&2; exit 2; }
  fi
  find_all || {
    echo "test.sh: needs the servers MariaDB (mariadbd, mariadb-install-db) and PostgreSQL (initdb, postgres); on Debian and Ubuntu: apt-get install mariadb-server postgresql" >&2
    exit 2
  }
fi

# PostgreSQL refuses to run as root, so root lends it another user.
server_user=
if is_root; then
  for name in postgres nobody; do
    if id "$name" >/dev/null 2>&1; then server_user=$name; break; fi
  done
fi
# The command in front of one that must not run as root; exec keeps the process id.
unprivileged=()
[ -z "$server_user" ] \
  || unprivileged=(setpriv --reuid "$server_user" --regid "$(id -g "$server_user")" --clear-groups env "HOME=$work")

give_folder() {
  mkdir "$1"
  [ -z "$server_user" ] || chown "$server_user" "$1"
}

# --- ports ---

port_is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A port below the range that the system hands out by itself, on which nothing answers now. Another
# process may still take it first: then the server fails to start and the caller tries another.
free_port() {
  local port
  for _ in $(seq 200); do
    port=$((12000 + RANDOM % 18000))
    port_is_open $port || { echo $port; return; }
  done
  return 1
}

# Waits up to SECONDS until the server PID says in LOG that it is ready; fails when it has ended.
wait_for() {
  local pid=$1 log=$2 seconds=$3
  for _ in $(seq $((seconds * 10))); do
    grep -q -E 'ready (to accept|for) connections' "$log" && return 0
    kill -0 "$pid" 2>/dev/null || return 1
    sleep 0.1
  done
  return 1
}

# Starts `CMD… PORT-OPTION=PORT` in the background until one port works. Sets `port` and `pid`.
start_server() {
  local log=$1 seconds=$2 option=$3
  shift 3
  for _ in 1 2 3 4 5; do
    port=$(free_port)
    : >"$log"
    LC_ALL=C setsid "$@" "$option=$port" </dev/null >>"$log" 2>&1 &
    pid=$!
    pids+=("$pid")
    wait_for "$pid" "$log" "$seconds" && return 0
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    unset "pids[-1]"
    grep -qi -E 'address already in use|bind on tcp' "$log" || return 1
  done
  return 1
}

fail() {
  echo "test.sh: $1" >&2
  [ ! -f "$2" ] || tail -n 20 "$2" >&2
  exit 2
}

# --- PostgreSQL ---

pg_settings=(-c fsync=off -c synchronous_commit=off -c full_page_writes=off)
maria_settings=(--innodb-flush-log-at-trx-commit=0 --innodb-flush-method=nosync --sync-binlog=0)
if [ -n "$durable" ]; then
  pg_settings=()
  maria_settings=(--innodb-flush-log-at-trx-commit=1 --sync-binlog=1)
fi

give_folder "$work/pg"
"${unprivileged[@]}" "$initdb" -D "$work/pg/data" -U postgres --auth=trust --encoding=UTF8 --locale=C.UTF-8 --no-sync \
  </dev/null >"$work/initdb.log" 2>&1 || fail "initdb failed" "$work/initdb.log"
start_server "$work/pg.log" 60 --port "${unprivileged[@]}" "$postgres" -D "$work/pg/data" \
  -c listen_addresses=127.0.0.1 -c "unix_socket_directories=$work/pg" \
  -c wal_level=logical -c max_wal_senders=50 -c max_replication_slots=50 -c max_connections=300 \
  "${pg_settings[@]}" -c timezone=UTC \
  || fail "PostgreSQL did not start" "$work/pg.log"
export ROWFERRY_TEST_POSTGRES="postgres://postgres@127.0.0.1:$port/postgres"
echo "PostgreSQL: $("$postgres" --version) on port $port"

# --- MariaDB ---

give_folder "$work/maria"
# Both run as the same user; `--user` is what makes the server accept being started by root.
maria_user=()
[ -z "$server_user" ] || maria_user=("--user=$server_user")
"$mariadb_install" --no-defaults "${maria_user[@]}" --datadir="$work/maria/data" --auth-root-authentication-method=normal \
  --skip-test-db --skip-name-resolve </dev/null >"$work/maria-install.log" 2>&1 || fail "mariadb-install-db failed" "$work/maria-install.log"
start_server "$work/maria.log" 60 --port "$mariadbd" --no-defaults "${maria_user[@]}" --datadir="$work/maria/data" \
  --bind-address=127.0.0.1 --socket="$work/maria/s" --pid-file="$work/maria/pid" --tmpdir="$work/maria" \
  --log-bin=binlog --binlog-format=ROW --server-id=1 --local-infile=1 --max-connections=300 \
  --max-allowed-packet=256M "${maria_settings[@]}" \
  --skip-name-resolve --default-time-zone=+00:00 \
  || fail "MariaDB did not start" "$work/maria.log"
export ROWFERRY_TEST_MARIADB="mysql://root@127.0.0.1:$port/mysql"
echo "MariaDB: $("$mariadbd" --no-defaults --version | tr -s ' ') on port $port"

# --- MySQL ---
# Debian's stable releases have no MySQL; its development branch has. It runs from a folder of its
# own with just the libraries that it needs. Optional: without it, MariaDB alone stands for both.

cache=${ROWFERRY_TEST_CACHE:-${HOME:-/root}/.cache/rowferry-tests}

# Prints the reason on failure.
fetch_mysql() {
  local made
  [ -x "$cache/mysql-sid/usr/sbin/mysqld" ] && return
  if ! command -v debootstrap >/dev/null; then
    apt_install debootstrap || { echo "debootstrap could not be installed"; return 1; }
  fi
  # What a run that was killed half-way left behind.
  find "$cache" -maxdepth 1 -name 'mysql-sid.??????' -mmin +60 -exec rm -rf --one-file-system {} + 2>/dev/null || true
  mkdir -p "$cache" && made=$(mktemp -d "$cache/mysql-sid.XXXXXX") || { echo "cannot write to $cache"; return 1; }
  # In namespaces of its own: when it is stopped half-way, nothing runs on and nothing stays mounted.
  if timeout --foreground -k 10 600 unshare --mount --pid --fork --kill-child debootstrap --variant=minbase --include=mysql-server-core sid "$made" \
    </dev/null >"$work/debootstrap.log" 2>&1 && [ -x "$made/usr/sbin/mysqld" ]; then
    rm -rf "$made"/var/cache/apt/archives/*.deb "$made"/var/lib/apt/lists/* "$made/usr/share/doc"
    chmod 755 "$made"
    mv -T "$made" "$cache/mysql-sid" 2>/dev/null || rm -rf --one-file-system "$made" # another run was first
    [ -x "$cache/mysql-sid/usr/sbin/mysqld" ] && return
    echo "cannot write to $cache"
  else
    echo "debootstrap failed: $(tail -n 1 "$work/debootstrap.log" | cut -c 1-150)"
    rm -rf --one-file-system "$made"
  fi
  return 1
}

start_mysql() {
  local root=$cache/mysql-sid ids mount_point
  [ "${ROWFERRY_TEST_MYSQL_SKIP:-}" != 1 ] || { mysql_reason="ROWFERRY_TEST_MYSQL_SKIP=1"; return 1; }
  is_root || { mysql_reason="only root can run it from its own folder (chroot)"; return 1; }
  mysql_reason=$(fetch_mysql) || return 1
  give_folder "$work/mysql"
  # The data folder is seen inside by a bind mount that only the server's own mount namespace has:
  # it goes when the server goes, and two runs of this script do not meet.
  ids=$(id -u nobody):$(id -g nobody)
  chown -R "$ids" "$work/mysql"
  mount_point=$root/srv
  mysql_run=(unshare --mount --propagation private -- sh -c
    'mount --bind "$1" "$2" && root=$3 && ids=$4 && shift 4 && exec chroot --userspec="$ids" "$root" /usr/sbin/mysqld "$@"'
    mysqld "$work/mysql" "$mount_point" "$root" "$ids" --no-defaults)
  timeout 120 "${mysql_run[@]}" --initialize-insecure --datadir=/srv/data </dev/null >"$work/mysql-init.log" 2>&1 \
    || { mysql_reason="initialising failed: $(tail -n 1 "$work/mysql-init.log" | cut -c 1-150)"; return 1; }
  start_server "$work/mysql.log" 60 --port "${mysql_run[@]}" --datadir=/srv/data \
    --bind-address=127.0.0.1 --socket=/srv/s --pid-file=/srv/pid --tmpdir=/srv \
    --secure-file-priv= --mysqlx=OFF --local-infile=0 --server-id=2 --max-connections=300 \
    --max-allowed-packet=256M --innodb-flush-log-at-trx-commit=0 --innodb-flush-method=nosync --sync-binlog=0 \
    --default-time-zone=+00:00 \
    || { mysql_reason="did not start: $(grep -F ERROR "$work/mysql.log" | tail -n 1 | cut -c 1-200)"; return 1; }
}

unset ROWFERRY_TEST_MYSQL
mysql_reason=
if start_mysql; then
  export ROWFERRY_TEST_MYSQL="mysql://root@127.0.0.1:$port/mysql"
  echo "MySQL: $(chroot "$cache/mysql-sid" /usr/sbin/mysqld --no-defaults --version | tr -s ' ') on port $port"
else
  echo "MySQL left out: ${mysql_reason:-unknown reason}"
fi

# --- the tests ---

export ROWFERRY_TEST_DBS=required
[ -z "$long" ] || export ROWFERRY_TEST_LONG=1
status=0
setsid "${run[@]}" "$@" </dev/null &
tests=$!
wait "$tests" || status=$?
tests=
exit "$status"
