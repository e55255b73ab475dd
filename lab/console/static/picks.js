// Calls marked for comparison: two at most, the older mark goes.

const picked = [];
const listeners = new Set();

export const picks = {
  get all() {
    return [...picked];
  },
  has: (id) => picked.includes(id),
  toggle(id) {
    const at = picked.indexOf(id);
    if (at >= 0) picked.splice(at, 1);
    else picked.push(id);
    while (picked.length > 2) picked.shift();
    for (const listener of listeners) listener();
  },
  clear() {
    picked.length = 0;
    for (const listener of listeners) listener();
  },
  onChange(listener) {
    listeners.add(listener);
    return () => listeners.delete(listener);
  },
};
