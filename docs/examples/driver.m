% A driver in MATLAB or Octave: a service until it is interrupted. It needs JeroMQ.
%
%   javaaddpath jeromq.jar
%   driver psu_cs PSU
%
% RSREG_ENDPOINT says where the registry is, RSREG_ADVERTISE where others reach this machine.
function driver (name, type, ttl)
  global rs  % what the functions below share
  if nargin < 3, ttl = '30'; end
  uuid = javaMethod ('randomUUID', 'java.util.UUID');
  sender = strrep (char (uuid.toString ()), '-', '');
  where = regexp (getenv ('RSREG_ENDPOINT'), '^(?:tcp://)?([^:]+):?(\d*)$', 'tokens', 'once');
  if isempty (where), where = {'localhost', ''}; end
  if isempty (where{2}), where{2} = '4242'; end
  rs = struct ('ttl', str2double (ttl), 'sender', sender(1:16), 'requests', 0, ...
    'endpoint', ['tcp://' where{1} ':' where{2}], 'registry', [], 'waits', false);
  rs.context = javaMethod ('context', 'org.zeromq.ZMQ', 1);
  commands = rs.context.socket (4);  % REP
  commands.setLinger (0);
  commands.setReceiveTimeOut (100);
  port = commands.bindToRandomPort ('tcp://*');
  rs.info = struct ('name', name, 'type', type, 'host', own_address (where), 'port', port);
  leave = onCleanup (@() goodbye (commands));  % also after Ctrl-C, in Octave after SIGTERM too
  patience = 2;  % seconds until an answer counts as lost
  registered = false; clock = tic; due = 0;
  while true
    if toc (clock) >= due
      if isempty (rs.registry) || rs.waits, connect_anew (); end
      if registered, ask ('renew'); else, ask ('register'); end
      due = toc (clock) + patience;
    end
    command = commands.recvStr ();
    if ~isempty (command), commands.send (['done: ' char(command)]); end  % the instrument
    reply = answer ();
    if isempty (reply), continue, end
    rs.waits = false;
    due = toc (clock) + patience;
    if reply.success
      if ~registered, rs.info.id = reply.service_id; end
      registered = true;
      due = toc (clock) + rs.ttl / 3;
    elseif registered && strcmp (reply.code, 'unknown-service')
      registered = false;  % it forgot us: register again, under the same id
      due = 0;
    else
      disp (reply.error);
    end
  end
end

function host = own_address (where)
  host = getenv ('RSREG_ADVERTISE');
  if isempty (host)  % the local address of the route to the registry: a UDP socket knows it
    udp = javaObject ('java.net.DatagramSocket');
    udp.connect (javaObject ('java.net.InetSocketAddress', where{1}, str2double (where{2})));
    address = udp.getLocalAddress ();
    host = char (address.getHostAddress ());
    udp.close ();
  end
end

function connect_anew ()  % a fresh socket has nothing queued that was given up
  global rs
  if ~isempty (rs.registry), rs.registry.close (); end
  rs.registry = rs.context.socket (5);  % DEALER
  rs.registry.setLinger (0);
  rs.registry.connect (rs.endpoint);
end

function ask (action)  % with the number of the last request, if that still waits for its answer
  global rs
  if ~rs.waits, rs.requests = rs.requests + 1; end
  rs.waits = true;
  rs.request_id = sprintf ('%s#%d', rs.sender, rs.requests);
  request = struct ('action', action, 'request_id', rs.request_id);
  if strcmp (action, 'register')
    request.service_info = rs.info;
    request.ttl = rs.ttl;
  else
    request.service_id = rs.info.id;
  end
  rs.registry.send ('', 2);  % SNDMORE
  rs.registry.send (jsonencode (request), 1);  % DONTWAIT
end

function reply = answer ()  % what has come, if it is the answer to the last request
  global rs
  reply = [];
  while isempty (reply) && bitand (rs.registry.getEvents (), 1)
    rs.registry.recvStr ();
    reply = jsondecode (char (rs.registry.recvStr ()));
    if ~isfield (reply, 'request_id') || ~strcmp (reply.request_id, rs.request_id), reply = []; end
  end
end

function goodbye (commands)
  global rs
  if isfield (rs.info, 'id')
    rs.waits = false;
    ask ('deregister');
    for n = 1:20, if isempty (answer ()), pause (0.1); else, break, end, end
  end
  if ~isempty (rs.registry), rs.registry.close (); end
  commands.close ();
end
