-- When the pair made by the last refresh was last given out again, nobody having used it yet. The 20 seconds in which
-- its predecessor is still good count from there: tabs that try again long after a lost answer race like any others.
alter table sessions add column successor_given_at timestamptz;
