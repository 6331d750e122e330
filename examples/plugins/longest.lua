-- A plugin: the longest word of a line.
local line = ...
local longest = ""
for word in line:gmatch("%a+") do
	if #word > #longest then longest = word end
end
return longest
