-- MIKEY-TICKET (RFC 6043) for Wireshark and tshark 4.x, which read data types 0 to 10 alone.
--
--   tshark -X lua_script:docs/wireshark/mikey_ticket.lua -r call.pcapng -Y mikey_ticket -O mikey_ticket
--
-- Reads HDR with all three CS ID maps, every payload of RFC 3830 and RFC 6043, TP Data, Ticket Data of the base ticket
-- and Initiator Data. It comes with a=key-mgmt in SDP, with application/mikey bodies of HTTP and SIP (octets or base64)
-- and on port 2269. Messages of the data types 0 to 10 go on to the built-in dissector.

local proto = Proto("mikey_ticket", "MIKEY-TICKET")

local MAX_PAYLOADS = 256
local MAX_NESTING = 3

local data_types = {
  [0] = "Pre-shared", [1] = "PSK ver msg", [2] = "Public key", [3] = "PK ver msg", [4] = "D-H init", [5] = "D-H resp",
  [6] = "Error", [7] = "DHHMAC init", [8] = "DHHMAC resp", [9] = "RSA-R I_MSG", [10] = "RSA-R R_MSG",
  [11] = "REQUEST_INIT_PSK", [12] = "REQUEST_INIT_PK", [13] = "REQUEST_RESP", [14] = "TRANSFER_INIT",
  [15] = "TRANSFER_RESP", [16] = "RESOLVE_INIT_PSK", [17] = "RESOLVE_INIT_PK", [18] = "RESOLVE_RESP",
}
local payload_names = {
  [0] = "Last payload", [1] = "KEMAC", [2] = "PKE", [3] = "DH", [4] = "SIGN", [5] = "T", [6] = "ID", [7] = "CERT",
  [8] = "CHASH", [9] = "V", [10] = "SP", [11] = "RAND", [12] = "ERR", [13] = "TR", [14] = "IDR", [15] = "RANDR",
  [16] = "TP", [17] = "TICKET", [20] = "Key data", [21] = "GENEXT",
}
local prfs = { [0] = "MIKEY-1", [1] = "PRF-HMAC-SHA-256" }
local maps = { [0] = "SRTP-ID", [1] = "Empty map", [2] = "GENERIC-ID" }
local encr_algs = { [0] = "NULL", [1] = "AES-CM-128", [2] = "AES-KW-128", [3] = "AES-CM-256" }
local mac_algs = { [0] = "NULL", [1] = "HMAC-SHA-1-160", [2] = "HMAC-SHA-256-256" }
local mac_octets = { [0] = 0, [1] = 20, [2] = 32 }
local ts_types = { [0] = "NTP-UTC", [1] = "NTP", [2] = "COUNTER", [3] = "NTP-UTC-32" }
local ts_octets = { [0] = 8, [1] = 8, [2] = 4, [3] = 4 }
local ts_roles = { [1] = "TRi (time of issue)", [2] = "TRs (start of validity)", [3] = "TRe (end of validity)",
  [4] = "TRr (rekeying interval)" }
local id_types = { [0] = "NAI", [1] = "URI", [2] = "Byte string" }
local id_roles = { [1] = "Initiator", [2] = "Responder", [3] = "KMS", [4] = "Pre-Shared Key", [5] = "Application" }
local rand_roles = { [1] = "Initiator", [2] = "Responder", [3] = "KMS" }
local cert_types = { [0] = "X.509v3", [1] = "X.509v3 URL", [2] = "X.509v3 Sign", [3] = "X.509v3 Encr" }
local hashes = { [0] = "SHA-1", [1] = "MD5", [2] = "SHA-256" }
local hash_octets = { [0] = 20, [1] = 16, [2] = 32 }
local id_suffixes = { [1] = "i", [2] = "r", [3] = "kms", [4] = "psk", [5] = "app", [6] = "kmsi", [7] = "kmsr" }
local rand_suffixes = { [1] = "i", [2] = "r", [3] = "kms" }
local ts_suffixes = { [1] = "i", [2] = "s", [3] = "e", [4] = "r" }
local signatures = { [0] = "RSA/PKCS#1/1.5", [1] = "RSA/PSS", [2] = "ECCSI" }
local key_types = { [0] = "TGK", [1] = "TGK+SALT", [2] = "TEK", [3] = "TEK+SALT", [4] = "GTGK", [5] = "GTGK+SALT",
  [6] = "MPK" }
local salted = { [1] = true, [3] = true, [5] = true }
local kv_types = { [0] = "Null", [1] = "SPI", [2] = "Interval" }
local prot_types = { [0] = "SRTP", [1] = "TESLA" }
local errors = {
  [0] = "Auth failure", [1] = "Invalid TS", [2] = "Invalid PRF", [3] = "Invalid MAC", [4] = "Invalid EA",
  [5] = "Invalid HA", [6] = "Invalid DH", [7] = "Invalid ID", [8] = "Invalid Cert", [9] = "Invalid SP",
  [10] = "Invalid SPpar", [11] = "Invalid DT", [12] = "Unspecified error", [13] = "Unsupported message type",
  [14] = "Invalid TICKET", [15] = "Invalid TPpar",
}
local ticket_types = { [1] = "MIKEY base ticket", [2] = "3GPP base ticket" }
local extensions = { [0] = "Vendor ID", [1] = "SDP IDs", [2] = "TESLA I-Key", [3] = "Key ID", [4] = "CSB_ID" }
local srtp_parameters = {
  [0] = "Encryption algorithm", [1] = "Session encryption key length", [2] = "Authentication algorithm",
  [3] = "Session authentication key length", [4] = "Session salt key length", [5] = "PRF", [6] = "Key derivation rate",
  [7] = "SRTP encryption", [8] = "SRTCP encryption", [9] = "FEC order", [10] = "SRTP authentication",
  [11] = "Authentication tag length", [12] = "SRTP prefix length", [13] = "ROC transmission rate",
  [20] = "AEAD tag length",
}

local f = {
  summary = ProtoField.string("mikey_ticket.summary", "Summary"),
  version = ProtoField.uint8("mikey_ticket.version", "Version"),
  data_type = ProtoField.uint8("mikey_ticket.data_type", "Data type", base.DEC, data_types),
  next = ProtoField.uint8("mikey_ticket.next_payload", "Next payload", base.DEC, payload_names),
  v_flag = ProtoField.bool("mikey_ticket.v", "Response wanted (V)", 8, nil, 0x80),
  prf = ProtoField.uint8("mikey_ticket.prf", "PRF func", base.DEC, prfs, 0x7f),
  csb_id = ProtoField.uint32("mikey_ticket.csb_id", "CSB ID", base.HEX),
  cs_count = ProtoField.uint8("mikey_ticket.cs_count", "#CS"),
  map = ProtoField.uint8("mikey_ticket.map_type", "CS ID map type", base.DEC, maps),
  cs_id = ProtoField.uint8("mikey_ticket.cs.id", "CS ID"),
  cs_prot = ProtoField.uint8("mikey_ticket.cs.prot_type", "Prot type", base.DEC, prot_types),
  cs_s = ProtoField.bool("mikey_ticket.cs.s", "ROC and SEQ present (S)", 8, nil, 0x80),
  cs_policies = ProtoField.uint8("mikey_ticket.cs.policies", "#P", base.DEC, nil, 0x7f),
  cs_policy = ProtoField.uint8("mikey_ticket.cs.policy_no", "Policy_no"),
  cs_data = ProtoField.bytes("mikey_ticket.cs.session_data", "Session Data"),
  cs_ssrc = ProtoField.uint32("mikey_ticket.cs.ssrc", "SSRC", base.HEX),
  cs_roc = ProtoField.uint32("mikey_ticket.cs.roc", "ROC"),
  cs_seq = ProtoField.uint16("mikey_ticket.cs.seq", "SEQ"),
  cs_spi = ProtoField.bytes("mikey_ticket.cs.spi", "SPI"),
  ts_type = ProtoField.uint8("mikey_ticket.ts.type", "TS type", base.DEC, ts_types),
  ts_role = ProtoField.uint8("mikey_ticket.ts.role", "TS role", base.DEC, ts_roles),
  ts_value = ProtoField.bytes("mikey_ticket.ts.value", "TS value"),
  ts_time = ProtoField.absolute_time("mikey_ticket.ts.time", "Time", base.UTC),
  ts_seconds = ProtoField.uint32("mikey_ticket.ts.seconds", "Seconds"),
  id_type = ProtoField.uint8("mikey_ticket.id.type", "ID type", base.DEC, id_types),
  id_role = ProtoField.uint8("mikey_ticket.id.role", "ID role", base.DEC, id_roles),
  id_text = ProtoField.string("mikey_ticket.id.data", "ID data"),
  id_bytes = ProtoField.bytes("mikey_ticket.id.octets", "ID data"),
  cert_type = ProtoField.uint8("mikey_ticket.cert.type", "Cert type", base.DEC, cert_types),
  cert = ProtoField.bytes("mikey_ticket.cert", "Certificate"),
  hash = ProtoField.uint8("mikey_ticket.hash.func", "Hash func", base.DEC, hashes),
  hash_value = ProtoField.bytes("mikey_ticket.hash", "Hash"),
  rand_role = ProtoField.uint8("mikey_ticket.rand.role", "RAND role", base.DEC, rand_roles),
  rand = ProtoField.bytes("mikey_ticket.rand", "RAND"),
  encr_alg = ProtoField.uint8("mikey_ticket.encr_alg", "Encr alg", base.DEC, encr_algs),
  encr_data = ProtoField.bytes("mikey_ticket.encr_data", "Encr data"),
  mac_alg = ProtoField.uint8("mikey_ticket.mac_alg", "MAC alg", base.DEC, mac_algs),
  mac = ProtoField.bytes("mikey_ticket.mac", "MAC"),
  pke_c = ProtoField.uint16("mikey_ticket.pke.c", "C", base.DEC, nil, 0xc000),
  pke = ProtoField.bytes("mikey_ticket.pke", "Envelope data"),
  sign_type = ProtoField.uint16("mikey_ticket.sign.type", "S type", base.DEC, signatures, 0xf000),
  sign = ProtoField.bytes("mikey_ticket.sign", "Signature"),
  sp_no = ProtoField.uint8("mikey_ticket.sp.policy_no", "Policy no"),
  sp_prot = ProtoField.uint8("mikey_ticket.sp.prot_type", "Prot type", base.DEC, prot_types),
  sp_param = ProtoField.uint8("mikey_ticket.sp.param", "Parameter", base.DEC, srtp_parameters),
  sp_value = ProtoField.bytes("mikey_ticket.sp.value", "Value"),
  err = ProtoField.uint8("mikey_ticket.error", "Error no", base.DEC, errors),
  ext_type = ProtoField.uint8("mikey_ticket.ext.type", "Type", base.DEC, extensions),
  ext_data = ProtoField.bytes("mikey_ticket.ext.data", "Data"),
  ext_text = ProtoField.string("mikey_ticket.ext.text", "SDP IDs"),
  key_type = ProtoField.uint8("mikey_ticket.key.type", "Type", base.DEC, key_types, 0xf0),
  key_kv = ProtoField.uint8("mikey_ticket.key.kv", "KV", base.DEC, kv_types, 0x0f),
  key = ProtoField.bytes("mikey_ticket.key", "Key data"),
  key_salt = ProtoField.bytes("mikey_ticket.key.salt", "Salt"),
  key_spi = ProtoField.bytes("mikey_ticket.key.spi", "SPI"),
  key_from = ProtoField.bytes("mikey_ticket.key.valid_from", "Valid From"),
  key_to = ProtoField.bytes("mikey_ticket.key.valid_to", "Valid To"),
  thdr = ProtoField.bytes("mikey_ticket.thdr", "THDR data"),
  t_type = ProtoField.uint16("mikey_ticket.ticket.type", "Ticket type", base.DEC, ticket_types),
  t_subtype = ProtoField.uint8("mikey_ticket.ticket.subtype", "Subtype"),
  t_version = ProtoField.uint8("mikey_ticket.ticket.version", "Version"),
  t_prf = ProtoField.uint24("mikey_ticket.ticket.prf", "PRF func", base.DEC, prfs, 0xfe0000),
  t_data = ProtoField.bytes("mikey_ticket.ticket.data", "Ticket Data"),
  t_initiator = ProtoField.bytes("mikey_ticket.ticket.initiator_data", "Initiator Data"),
}
local flags = {
  { "d", "D: made by the KMS", 0x10000 }, { "e", "E: has to be resolved", 0x8000 },
  { "f", "F: TRANSFER_RESP is sent", 0x4000 }, { "g", "G: responder generates RANDRr", 0x2000 },
  { "h", "H: RANDRi enters the session keys", 0x1000 }, { "i", "I: keys are forked", 0x800 },
  { "j", "J: may be used again", 0x400 }, { "k", "K: the KMS altered the policy", 0x200 },
  { "l", "L: initiator may supply keys", 0x100 }, { "m", "M: responder may supply keys", 0x80 },
  { "n", "N: a plain initiator can use it", 0x40 }, { "o", "O: a plain responder can use it", 0x20 },
}
for _, flag in ipairs(flags) do
  flag.field = ProtoField.bool("mikey_ticket.ticket." .. flag[1], flag[2], 24, nil, flag[3])
  f["flag_" .. flag[1]] = flag.field
end
proto.fields = f

local malformed = ProtoExpert.new("mikey_ticket.malformed", "Malformed MIKEY message", expert.group.MALFORMED,
  expert.severity.ERROR)
proto.experts = { malformed }

-- A cursor over a range of the buffer. Every read checks what is left and raises the fault as a Lua error, which the
-- dissector turns into an expert item.
local Cursor = {}
Cursor.__index = Cursor

local function cursor(tvb, start, stop, budget, depth)
  return setmetatable({ tvb = tvb, at = start, stop = stop, budget = budget, depth = depth }, Cursor)
end

local function fault(text)
  error({ fault = text }, 0)
end

function Cursor:left()
  return self.stop - self.at
end

function Cursor:peek(octets)
  if octets > self:left() then
    fault("cut short: " .. octets .. " octets are due, " .. self:left() .. " are left")
  end
  return self.tvb(self.at, octets)
end

function Cursor:number(octets)
  return self:peek(octets):uint()
end

function Cursor:add(tree, field, octets)
  local range = self:peek(octets)
  self.at = self.at + octets
  tree:add(field, range)
  return range:uint()
end

-- Octets of any length; nothing is added for none.
function Cursor:bytes(tree, field, octets)
  if octets > 0 then
    tree:add(field, self:peek(octets))
  end
  self.at = self.at + octets
end

function Cursor:length(octets)
  local value = self:number(octets)
  self.at = self.at + octets
  return value
end

function Cursor:inside(octets)
  if self.depth >= MAX_NESTING then
    fault("payloads are nested too deep")
  end
  self:peek(octets)
  local inner = cursor(self.tvb, self.at, self.at + octets, self.budget, self.depth + 1)
  self.at = self.at + octets
  return inner
end

-- A range of no octets cannot be made; what is inside then stands one level up.
function Cursor:subtree(tree, name, octets)
  if octets > 0 then
    return tree:add(proto, self:peek(octets), name)
  end
  return tree
end

local read_chain

-- Reads what may be built otherwise: a fault in it is no fault of the message.
local function attempt(read)
  local ok, why = pcall(read)
  if not ok and type(why) ~= "table" then
    error(why, 0)
  end
end

local function mac(c, tree)
  local alg = c:add(tree, f.mac_alg, 1)
  if not mac_octets[alg] then
    fault("MAC alg " .. alg)
  end
  c:bytes(tree, f.mac, mac_octets[alg])
end

local function timestamp(c, tree, role)
  local kind = c:add(tree, f.ts_type, 1)
  local octets = ts_octets[kind]
  if not octets then
    fault("TS type " .. kind)
  end
  local range = c:peek(octets)
  tree:add(f.ts_value, range)
  if kind ~= 2 then
    local seconds = c:number(4)
    if role == 4 then
      tree:add(f.ts_seconds, range(0, 4))
    else
      -- Seconds with the top bit clear count from 2036 (RFC 4330 3).
      local unix = seconds - 2208988800
      if seconds < 0x80000000 then
        unix = unix + 4294967296
      end
      local fraction = octets == 8 and range(4, 4):uint() or 0
      tree:add(f.ts_time, range, NSTime.new(unix, math.floor(fraction * 1e9 / 4294967296)))
    end
  end
  c.at = c.at + octets
end

local function identity(c, tree)
  local kind = c:add(tree, f.id_type, 1)
  if not id_types[kind] then
    fault("ID type " .. kind)
  end
  local octets = c:length(2)
  if kind == 2 then
    c:bytes(tree, f.id_bytes, octets)
  else
    c:bytes(tree, f.id_text, octets)
  end
end

local function policy(c, tree)
  c:add(tree, f.sp_no, 1)
  local srtp = c:add(tree, f.sp_prot, 1) == 0
  local octets = c:length(2)
  c:peek(octets)
  local inner = cursor(c.tvb, c.at, c.at + octets, c.budget, c.depth)
  while inner:left() > 0 do
    if srtp then
      inner:add(tree, f.sp_param, 1)
    else
      inner:length(1)
    end
    inner:bytes(tree, f.sp_value, inner:length(1))
  end
  c.at = c.at + octets
end

local function key_data(c, tree)
  local octet = c:number(1)
  tree:add(f.key_type, c:peek(1))
  tree:add(f.key_kv, c:peek(1))
  c.at = c.at + 1
  local kind, kv = math.floor(octet / 16), octet % 16
  if not key_types[kind] or not kv_types[kv] then
    fault("Key data type " .. kind .. ", KV " .. kv)
  end
  c:bytes(tree, f.key, c:length(2))
  if salted[kind] then
    c:bytes(tree, f.key_salt, c:length(2))
  end
  if kv == 1 then
    c:bytes(tree, f.key_spi, c:length(1))
  elseif kv == 2 then
    c:bytes(tree, f.key_from, c:length(1))
    c:bytes(tree, f.key_to, c:length(1))
  end
end

local function kemac(c, tree)
  local alg = c:add(tree, f.encr_alg, 1)
  local octets = c:length(2)
  if alg == 0 and octets > 0 then -- in a ticket policy: the keys that are asked for, their octets all zero
    local inner = cursor(c.tvb, c.at, c.at + octets, c.budget, c.depth)
    c:bytes(tree, f.encr_data, octets)
    attempt(function()
      read_chain(20, inner, tree)
    end)
  else
    c:bytes(tree, f.encr_data, octets)
  end
  mac(c, tree)
end

local function ticket_policy(c, tree)
  c:add(tree, f.t_type, 2)
  c:add(tree, f.t_subtype, 1)
  c:add(tree, f.t_version, 1)
  local word = c:peek(3)
  tree:add(f.t_prf, word)
  for _, flag in ipairs(flags) do
    tree:add(flag.field, word)
  end
  c.at = c.at + 3
  local octets = c:length(2)
  local branch = c:subtree(tree, "TP Data", octets)
  local inner = c:inside(octets)
  read_chain(inner:length(1), inner, branch)
end

-- Ticket Data is for its issuer: what is not built like the base ticket is shown as octets.
local function ticket_data(c, tree)
  local octets = c:length(2)
  if octets == 0 then
    return
  end
  tree:add(f.t_data, c:peek(octets))
  local branch = c:subtree(tree, "Ticket Data, read as that of a base ticket", octets)
  local inner = cursor(c.tvb, c.at, c.at + octets, { left = MAX_PAYLOADS }, c.depth)
  c.at = c.at + octets
  attempt(function()
    local following = inner:add(branch, f.next, 1)
    inner:bytes(branch, f.thdr, inner:length(2))
    read_chain(following, inner, branch)
  end)
end

local function initiator_data(c, tree)
  local octets = c:length(2)
  if octets == 0 then
    return
  end
  tree:add(f.t_initiator, c:peek(octets))
  local branch = c:subtree(tree, "Initiator Data", octets)
  local inner = cursor(c.tvb, c.at, c.at + octets, { left = MAX_PAYLOADS }, c.depth)
  c.at = c.at + octets
  attempt(function()
    local first = inner:length(1)
    -- Vi may say that it is the last payload, although Vr follows (RFC 6043 6.10).
    if first == 9 and inner:left() > 2 and inner:number(1) == 0 then
      local vi = inner:subtree(branch, "V", 2)
      inner:add(vi, f.next, 1)
      mac(inner, vi)
    end
    read_chain(first, inner, branch)
  end)
end

-- Bodies by payload number; what one returns is the role in the payload's name.
local bodies = {
  [1] = kemac,
  [2] = function(c, tree)
    tree:add(f.pke_c, c:peek(2))
    c:bytes(tree, f.pke, c:length(2) % 0x4000)
  end,
  [5] = function(c, tree)
    timestamp(c, tree)
  end,
  [6] = identity,
  [7] = function(c, tree)
    c:add(tree, f.cert_type, 1)
    c:bytes(tree, f.cert, c:length(2))
  end,
  [8] = function(c, tree)
    local func = c:add(tree, f.hash, 1)
    if not hash_octets[func] then
      fault("Hash func " .. func)
    end
    c:bytes(tree, f.hash_value, hash_octets[func])
  end,
  [9] = mac,
  [10] = policy,
  [11] = function(c, tree)
    c:bytes(tree, f.rand, c:length(1))
  end,
  [12] = function(c, tree)
    c:add(tree, f.err, 1)
    c:length(2)
  end,
  [13] = function(c, tree)
    local role = c:add(tree, f.ts_role, 1)
    timestamp(c, tree, role)
    return ts_suffixes[role] or role
  end,
  [14] = function(c, tree)
    local role = c:add(tree, f.id_role, 1)
    identity(c, tree)
    return id_suffixes[role] or role
  end,
  [15] = function(c, tree)
    local role = c:add(tree, f.rand_role, 1)
    c:bytes(tree, f.rand, c:length(1))
    return rand_suffixes[role] or role
  end,
  [16] = ticket_policy,
  [17] = function(c, tree)
    ticket_policy(c, tree)
    ticket_data(c, tree)
    initiator_data(c, tree)
  end,
  [20] = key_data,
  [21] = function(c, tree)
    local kind = c:add(tree, f.ext_type, 1)
    c:bytes(tree, kind == 1 and f.ext_text or f.ext_data, c:length(2))
  end,
}

-- Reads payloads to the end of the range; returns their names.
read_chain = function(following, c, tree)
  local names = {}
  while following ~= 0 do
    c.budget.left = c.budget.left - 1
    if c.budget.left < 0 then
      fault("more than " .. MAX_PAYLOADS .. " payloads")
    end
    local name = payload_names[following] or ("payload " .. following)
    local start = c.at
    if following == 4 then -- SIGN is always last and has no next-payload octet (RFC 3830 6.5)
      local branch = c:subtree(tree, name, 2)
      branch:add(f.sign_type, c:peek(2))
      c:bytes(branch, f.sign, c:length(2) % 0x1000)
      branch:set_len(c.at - start)
      following = 0
    else
      local body = bodies[following]
      if not body then
        fault("a payload of number " .. following .. " cannot be read")
      end
      local branch = c:subtree(tree, name, 1)
      following = c:add(branch, f.next, 1)
      local role = body(c, branch)
      if role then
        name = name .. role
        branch:set_text(name)
      end
      branch:set_len(c.at - start)
    end
    names[#names + 1] = name
  end
  if c:left() > 0 then
    fault(c:left() .. " octets behind the last payload")
  end
  return names
end

local function sessions(c, tree, count, map)
  for place = 1, count do
    if map == 0 then
      local branch = c:subtree(tree, "Crypto session " .. place, 9)
      c:add(branch, f.cs_policy, 1)
      c:add(branch, f.cs_ssrc, 4)
      c:add(branch, f.cs_roc, 4)
    elseif map == 2 then
      local start = c.at
      local branch = c:subtree(tree, "Crypto session", 3)
      branch:append_text(" " .. c:add(branch, f.cs_id, 1))
      local srtp = c:add(branch, f.cs_prot, 1) == 0
      local octet = c:number(1)
      branch:add(f.cs_s, c:peek(1))
      branch:add(f.cs_policies, c:peek(1))
      c.at = c.at + 1
      for _ = 1, octet % 0x80 do
        c:add(branch, f.cs_policy, 1)
      end
      local octets = c:length(2)
      local full = octet >= 0x80
      if srtp and octets == (full and 10 or 4) then
        c:add(branch, f.cs_ssrc, 4)
        if full then
          c:add(branch, f.cs_roc, 4)
          c:add(branch, f.cs_seq, 2)
        end
      else
        c:bytes(branch, f.cs_data, octets)
      end
      c:bytes(branch, f.cs_spi, c:length(1))
      branch:set_len(c.at - start)
    else
      fault("crypto sessions in a map of type " .. map)
    end
  end
end

local function read_message(c, tree)
  local header = c:subtree(tree, "HDR", 10)
  if c:add(header, f.version, 1) ~= 1 then
    fault("version")
  end
  c:add(header, f.data_type, 1)
  local first = c:add(header, f.next, 1)
  header:add(f.v_flag, c:peek(1))
  c:add(header, f.prf, 1)
  c:add(header, f.csb_id, 4)
  local count = c:add(header, f.cs_count, 1)
  local map = c:add(header, f.map, 1)
  sessions(c, header, count, map)
  header:set_len(c.at)
  if first == 0 then
    fault("no payload follows")
  end
  return read_chain(first, c, tree)
end

local builtin = Dissector.get("mikey")

-- A message begins with its version, 1; base64 of it with a letter.
local function octets_of(tvb)
  if tvb(0, 1):uint() == 1 then
    return tvb
  end
  local text = tvb():raw():gsub("%s", "")
  if text == "" or text:find("[^%w+/=]") then
    return nil
  end
  local decoded = ByteArray.new(text, true):base64_decode()
  if decoded:len() < 2 or decoded:get_index(0) ~= 1 then
    return nil
  end
  return decoded:tvb("MIKEY")
end

function proto.dissector(tvb, pinfo, tree)
  if tvb:len() < 2 then
    return 0
  end
  local octets = octets_of(tvb)
  if not octets then
    return 0
  end
  local kind = octets(1, 1):uint()
  if kind <= 10 or kind > 18 then
    if builtin then
      builtin:call(octets, pinfo, tree)
    end
    return tvb:len()
  end
  local branch = tree:add(proto, octets())
  branch:append_text(", " .. data_types[kind])
  local c = cursor(octets, 0, octets:len(), { left = MAX_PAYLOADS }, 1)
  local ok, why = pcall(read_message, c, branch)
  if ok then
    local summary = data_types[kind] .. ": " .. table.concat(why, ", ")
    branch:set_text("MIKEY-TICKET, " .. summary)
    branch:add(f.summary, summary):set_generated()
  elseif type(why) == "table" then
    branch:add_proto_expert_info(malformed, "Malformed MIKEY message: " .. why.fault)
  else
    error(why, 0)
  end
  return tvb:len()
end

local function register(name, pattern)
  local ok, where = pcall(DissectorTable.get, name)
  if ok and where then
    where:add(pattern, proto)
  end
end

register("udp.port", 2269)
register("tcp.port", 2269)
register("key_mgmt", "mikey")
register("media_type", "application/mikey")
