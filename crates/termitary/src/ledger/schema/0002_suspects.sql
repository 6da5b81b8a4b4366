-- A delivery whose process died twice while it held it is a suspect: pending as
-- state -1, which no ordinary claim sees, and leased only alone.
CREATE INDEX termitary_deliveries_suspects ON termitary_deliveries (state, due_us) WHERE crashes >= 2 AND state <= 1;
