// POST and GET /api/v1/todos as a careful author would write them with Elysia
// on Bun: validated by schema, authorised by a session in the database, stored
// with synchronous=FULL, announced by a Redis PUBLISH. One process, as usual for Bun.
//
// Usage: bun elysia.ts DATABASE PORT REDIS_URL
// Prints one line of JSON with the token to send, then serves until killed.

import { Database } from "bun:sqlite";
import { RedisClient, randomUUIDv7 } from "bun";
import { Elysia, t } from "elysia";

const [file, port, redisUrl] = process.argv.slice(2);
const db = new Database(file, { create: true, strict: true });
db.run("PRAGMA journal_mode = WAL");
db.run("PRAGMA synchronous = FULL");
db.run("PRAGMA foreign_keys = ON");
db.run("PRAGMA busy_timeout = 5000");
db.run(`CREATE TABLE IF NOT EXISTS users (
  id TEXT PRIMARY KEY, email TEXT NOT NULL UNIQUE, name TEXT NOT NULL, role TEXT NOT NULL) STRICT`);
db.run(`CREATE TABLE IF NOT EXISTS sessions (
  id TEXT PRIMARY KEY, user_id TEXT NOT NULL REFERENCES users (id), token_hash BLOB NOT NULL UNIQUE,
  last_used_us INTEGER NOT NULL, expires_us INTEGER NOT NULL) STRICT`);
db.run(`CREATE TABLE IF NOT EXISTS todos (
  id TEXT PRIMARY KEY, owner_id TEXT NOT NULL, assignee_id TEXT, title TEXT NOT NULL, description TEXT,
  status TEXT NOT NULL, priority INTEGER, due_us INTEGER, created_us INTEGER NOT NULL, updated_us INTEGER NOT NULL) STRICT`);
db.run("CREATE INDEX IF NOT EXISTS todos_of_owner ON todos (owner_id, created_us, id)");
db.run("CREATE INDEX IF NOT EXISTS todos_of_assignee ON todos (assignee_id, created_us, id)");

const redis = new RedisClient(redisUrl);
await redis.connect();

const hash = (token: string) => new Bun.CryptoHasher("sha256").update(token).digest();
const user = randomUUIDv7();
const token = Buffer.from(crypto.getRandomValues(new Uint8Array(32))).toString("base64url");
const nowUs = () => Date.now() * 1000;
db.query("INSERT INTO users VALUES (?, ?, ?, ?)").run(user, `${user}@example.com`, "Ada", "user");
db.query("INSERT INTO sessions VALUES (?, ?, ?, ?, ?)").run(randomUUIDv7(), user, hash(token), nowUs(), nowUs() + 90 * 86_400_000_000);

const session = db.query(`SELECT s.user_id AS user, u.role FROM sessions s JOIN users u ON u.id = s.user_id
  WHERE s.token_hash = ?1 AND s.expires_us > ?2 AND s.last_used_us > ?3`);
const exists = db.query("SELECT 1 FROM users WHERE id = ?1");
const insert = db.query(`INSERT INTO todos (id, title, description, status, owner_id, assignee_id, priority, due_us, created_us, updated_us)
  VALUES (?1, ?2, ?3, 'open', ?4, ?5, ?6, ?7, ?8, ?8)`);
// Each half reads its index from the newest entry on.
const page = db.query(`SELECT * FROM (
    SELECT * FROM (SELECT * FROM todos WHERE owner_id = ?1 ORDER BY created_us DESC, id DESC LIMIT ?2)
    UNION ALL
    SELECT * FROM (SELECT * FROM todos WHERE assignee_id = ?1 ORDER BY created_us DESC, id DESC LIMIT ?2) WHERE owner_id <> ?1
  ) ORDER BY created_us DESC, id DESC LIMIT ?2`);

const PRIORITIES = ["low", "medium", "high", "urgent"];
const iso = (us: number | null) => (us === null ? null : new Date(us / 1000).toISOString());
const shown = (row: any) => ({
  id: row.id, title: row.title, description: row.description, status: row.status, owner: row.owner_id,
  assignee: row.assignee_id, priority: row.priority === null ? null : PRIORITIES[row.priority],
  dueDate: iso(row.due_us), createdAt: iso(row.created_us), updatedAt: iso(row.updated_us),
});

const NewTodo = t.Object({
  title: t.String({ minLength: 1, maxLength: 200 }),
  description: t.Optional(t.Nullable(t.String({ maxLength: 10_000 }))),
  assignee: t.Optional(t.Nullable(t.String({ format: "uuid" }))),
  priority: t.Optional(t.Nullable(t.Union(PRIORITIES.map((name) => t.Literal(name))))),
  dueDate: t.Optional(t.Nullable(t.String({ format: "date-time" }))),
}, { additionalProperties: false });

const problem = (status: number, title: string) =>
  new Response(JSON.stringify({ status, title }), { status, headers: { "content-type": "application/problem+json" } });

new Elysia()
  .derive(({ headers }) => {
    const [scheme, token] = (headers.authorization ?? "").split(" ");
    const now = nowUs();
    const caller = scheme === "Bearer" && token
      ? (session.get(hash(token), now, now - 14 * 86_400_000_000) as { user: string; role: string } | null)
      : null;
    return { caller };
  })
  .onBeforeHandle(({ caller }) => (caller ? undefined : problem(401, "Unauthorized")))
  .post("/api/v1/todos", ({ body, caller, set }) => {
    if (body.assignee && !exists.get(body.assignee)) return problem(422, "assignee is not the id of a user");
    const now = nowUs();
    const row = {
      id: randomUUIDv7(), title: body.title.trim(), description: body.description ?? null, status: "open",
      owner_id: caller!.user, assignee_id: body.assignee ?? null,
      priority: body.priority ? PRIORITIES.indexOf(body.priority) : null,
      due_us: body.dueDate ? Date.parse(body.dueDate) * 1000 : null, created_us: now, updated_us: now,
    };
    insert.run(row.id, row.title, row.description, row.owner_id, row.assignee_id, row.priority, row.due_us, now);
    const todo = shown(row);
    // At most once and not awaited, as usual with pub/sub.
    redis.publish("todos.created", JSON.stringify({
      id: todo.id, title: todo.title, description: todo.description ?? undefined, assignee: todo.assignee ?? undefined,
      priority: todo.priority ?? undefined, dueDate: todo.dueDate ?? undefined,
    }));
    set.status = 201;
    return todo;
  }, { body: NewTodo })
  .get("/api/v1/todos", ({ query, caller }) => {
    const limit = query.limit ?? 50;
    const rows = page.all(caller!.user, limit + 1) as any[];
    const more = rows.length > limit;
    const items = rows.slice(0, limit).map(shown);
    const last = items.at(-1);
    const nextCursor = more && last
      ? Buffer.from(JSON.stringify({ sort: "-createdAt", at: rows[limit - 1].created_us, id: last.id })).toString("base64url")
      : null;
    return { items, nextCursor };
  }, { query: t.Object({ limit: t.Optional(t.Integer({ minimum: 1, maximum: 100 })) }) })
  .listen({ port: Number(port), hostname: "127.0.0.1" });

console.log(JSON.stringify({ token, bun: Bun.version }));
